"""The command that stays: serve. What it does is in serve.py and pipeline/serve."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from jobs import serve as serve_job
from jobs.cli_options import Command, Device, Json, Root, RunnerKind
from jobs.runners import RunnerOptions
from pipeline.core.errors import UserError
from pipeline.search.live import LiveOptions
from pipeline.serve.options import ListenOptions, ServeLimits, ServeOptions

LIMITS = ServeLimits()


def serve(
    root: Root,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's own need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8080,
    host_name: Annotated[
        list[str] | None, typer.Option(help="A name that clients call it by, where a proxy stands before it.")
    ] = None,
    proxy: Annotated[
        list[str] | None, typer.Option(help="Address of a proxy before it, whose X-Forwarded-For is believed.")
    ] = None,
    token_file: Annotated[
        str, typer.Option(help="File with the token that clients send as a bearer. [default: $SIGHTLINE_SERVE_TOKEN]")
    ] = "",
    indexes: Annotated[str, typer.Option(help="Index kinds to open, by commas. [default: all]")] = "",
    snapshot: Annotated[int | None, typer.Option(min=1, help="Stay with this snapshot.")] = None,
    refresh: Annotated[float, typer.Option(min=0, help="Seconds between looks for a new snapshot; 0 for none.")] = 10.0,
    lease: Annotated[
        bool, typer.Option("--lease/--no-lease", help="Keep what is served from being swept away; writes to ROOT.")
    ] = True,
    rate: Annotated[int, typer.Option(min=0, help="Searches per second of one client; 0 for any.")] = LIMITS.rate,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Searches at work or waiting; beyond it clients are sent away.")
    ] = LIMITS.searches,
    max_bytes: Annotated[int, typer.Option(min=1024, help="Size of a request.")] = LIMITS.body_bytes,
    max_pixels: Annotated[int, typer.Option(min=1, help="Size of an image.")] = LIMITS.pixels,
    certificate: Annotated[str, typer.Option(help="PEM file, for TLS.")] = "",
    key: Annotated[str, typer.Option(help="PEM file of its key.")] = "",
    runner: Annotated[RunnerKind, typer.Option(help="Where index shards are held.")] = RunnerKind.inline,
    address: Annotated[str, typer.Option(help="Ray cluster to hold index shards on.")] = "",
    workers: Annotated[
        int, typer.Option(min=0, help="Workers that share the index shards. [default: one per node]")
    ] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Serve ROOT over HTTP, with a page to search it; new snapshots are taken up by themselves."""
    if bool(certificate) != bool(key):
        raise UserError("--certificate and --key", "belong together", "give both")
    listening = ListenOptions(
        host=host,
        port=port,
        certificate=certificate,
        key=key,
        names=tuple(name.lower() for name in host_name or ()),
        proxies=tuple(proxy or ()),
    )
    token = serve_job.token_of(token_file)
    options = ServeOptions(
        root=root,
        kinds=tuple(indexes.split(",")) if indexes else None,
        device=device,
        token=token,
        hosts=serve_job.hosts_of(listening, token),
        limits=ServeLimits(rate=rate, searches=concurrency, body_bytes=max_bytes, pixels=max_pixels),
        live=LiveOptions(every=refresh, lease=lease, version=snapshot),
    )
    held = RunnerOptions(kind=runner.value, address=address, workers=workers)
    serve_job.serve(options, listening, lambda data: _tell(data, as_json), held)
    return 0


def _tell(data: dict[str, Any], as_json: bool) -> None:
    line = json.dumps(data) if as_json else f"snapshot {data['snapshot']}, {data['images']} images: {data['url']}"
    print(line, flush=True)
    print("Ctrl-C ends it", file=sys.stderr, flush=True)


COMMANDS: tuple[Command, ...] = ((serve, {}),)
"""Commands of this module."""
