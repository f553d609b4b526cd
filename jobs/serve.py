"""`sightline serve`: a published ROOT over HTTP, with a page to search it. It listens until it is told to end."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs._main import run_module
from jobs.opened import open_search
from jobs.runners import RunnerOptions
from pipeline.core.errors import AccessError, UserError
from pipeline.core.extras import library
from pipeline.core.names import public_url
from pipeline.publish.catalog import Catalog
from pipeline.publish.snapshot import Snapshot
from pipeline.run.guard import reach
from pipeline.search.engine import SearchIndex
from pipeline.serve.options import ListenOptions, ServeOptions

TOKEN = "SIGHTLINE_SERVE_TOKEN"  # noqa: S105 - the name of a variable
LEAST_TOKEN = 16
HERE = ("127.0.0.1", "localhost", "::1")


def token_of(file: str) -> str:
    """Return the token that clients must send: from a file, or from the environment; "" when there is none."""
    text = os.environ.get(TOKEN, "")
    if file:
        try:
            text = Path(file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            raise UserError(f"--token-file {file}", "cannot be read", "name a file of one line") from None
    token = text.strip()
    if (token or file) and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise UserError("the token", f"is no word of {LEAST_TOKEN} ASCII characters or more", "make a longer one")
    return token


def hosts_of(listening: ListenOptions, token: str) -> tuple[str, ...] | None:
    """Return the names that the service answers to, None for any; a UserError before it is open to strangers."""
    here = reach(listening.host) == "here"
    if not here and not token:
        raise UserError(
            f"--host {listening.host}",
            "is refused: others could reach it, and no token protects it",
            f"set {TOKEN} or --token-file",
        )
    if here or listening.names:
        return (*listening.names, listening.host.strip("[]").lower(), *HERE)
    return None


def serve(
    options: ServeOptions,
    listening: ListenOptions,
    told: Callable[[dict[str, Any]], None],
    runner: RunnerOptions | None = None,
) -> None:
    """Open the snapshot, listen, and return when the process is told to end and requests under way are answered.

    told hears once, when it listens: {"url", "snapshot", "images"}. runner: where index shards are held.
    """
    for module in ("fastapi", "uvicorn", "python_multipart", "fastapi_offline", "limits"):
        library(module, "serve", "serve")
    service_module = importlib.import_module("pipeline.serve.service")
    listen_module = importlib.import_module("pipeline.serve.listen")

    def opener(catalog: Catalog, snapshot: Snapshot) -> SearchIndex:
        if runner is None or runner.kind == "inline":
            return SearchIndex(catalog, snapshot)
        return open_search(options.root, snapshot.version, runner, kinds=options.kinds or ())

    try:
        with service_module.Service(options, opener) as service:
            about = service.about()

            def listens(url: str) -> None:
                told({"url": url, "snapshot": about.snapshot, "images": about.images})

            listen_module.listen(service, listening, listens)
    except AccessError as error:
        remedy = "give --no-lease to serve a ROOT that cannot be written to" if options.live.lease else ""
        raise UserError(public_url(options.root), str(error), remedy) from None


if __name__ == "__main__":
    run_module("serve")
