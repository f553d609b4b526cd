"""The commands that read: status, query, export. The work is in the modules of these names."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from jobs import export as export_job
from jobs import output
from jobs import query as query_job
from jobs import status as status_job
from jobs.cli_options import Command, Device, Json, Root, RunnerKind, floats
from jobs.runners import ANSWER_SECONDS, RunnerOptions
from pipeline.core.errors import UserError
from pipeline.search.engine import SearchOptions
from pipeline.search.query import BoxScale

Index = Annotated[str, typer.Option(help="Index kind to search; the snapshot's best by default.")]
Rerank = Annotated[
    int | None, typer.Option(help="Candidates scored exactly from stored descriptors. [default: max(100, 10 K)]")
]

Verify = Annotated[
    int, typer.Option(min=0, help="Candidates whose geometry is compared, by stored local descriptors; DELG takes 100.")
]
BoxAs = Annotated[
    str, typer.Option(help="own: a box is resized like an image (DIR); database: as within its image (cirtorch).")
]


def status(
    root: Root,
    history: Annotated[int, typer.Option(min=1, help="How many of the latest snapshots to list.")] = 20,
    as_json: Json = False,
) -> int:
    """Show head, history, recipe, sizes and drift of ROOT."""
    data = status_job.status(root, history)
    output.emit(data, as_json=as_json, lines=output.status_lines(data))
    return 0


def query(
    root: Root,
    images: Annotated[list[str] | None, typer.Argument(help="Query images, local or s3://.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="Key of an indexed image to search with.")] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Results per query.")] = 10,
    index: Index = "",
    rerank: Rerank = None,
    effort: Annotated[
        int | None, typer.Option(min=1, help="nprobe, ef_search or checks of the index. [default: the recipe's]")
    ] = None,
    box: Annotated[str | None, typer.Option(help="X,Y,W,H: search with this part of the image, in its pixels.")] = None,
    expand: Annotated[str | None, typer.Option(help="K,ALPHA: query expansion with the K best results.")] = None,
    box_scale: BoxAs = "own",
    verify: Verify = 0,
    where: Annotated[
        str, typer.Option(help="Condition on metadata, key, width and height: \"license = 'cc0' and year > 2015\".")
    ] = "",
    locate: Annotated[
        bool, typer.Option("--locate", help="Say where in each result the query is; reads the results again.")
    ] = False,
    runner: Annotated[
        RunnerKind, typer.Option(help="inline: this process; ray: index shards shared out among Ray workers.")
    ] = RunnerKind.inline,
    address: Annotated[str, typer.Option(help="Ray cluster to join. [default: a local one]")] = "",
    workers: Annotated[int, typer.Option(min=0, help="Ray workers; 0: one per node.")] = 0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that Ray workers have to answer.")] = ANSWER_SECONDS,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Find the images most similar to each query image."""
    corners = floats(box, "--box")
    if corners is not None and len(corners) != 4:
        raise UserError(f"--box {box}", "is not four numbers", "write X,Y,W,H")
    options = query_job.QueryOptions(
        root=root,
        images=images or (),
        keys=key or (),
        search=SearchOptions(
            k=k,
            index=index,
            rerank=rerank,
            effort=effort,
            expand=as_expansion(expand),
            verify=verify,
            where=where,
        ),
        box=None if corners is None else (corners[0], corners[1], corners[2], corners[3]),
        box_scale=as_box_scale(box_scale),
        locate=locate,
        device=device,
        runner=RunnerOptions(kind=runner.value, address=address, workers=workers),
        seconds=timeout,
    )
    data = query_job.query(options)
    if as_json:
        output.emit(data, as_json=True)
    else:
        output.print_hits(data)
    return 0


def as_box_scale(text: str) -> BoxScale:
    """Return how a box is resized."""
    if text not in ("own", "database"):
        raise UserError(f"--box-scale {text}", "is not known", "write own or database")
    return cast("BoxScale", text)


def as_expansion(text: str | None, option: str = "--expand") -> tuple[int, float] | None:
    """Return what an option says of expansion; None where it was not given."""
    numbers = floats(text, option)
    if numbers is None:
        return None
    if len(numbers) != 2 or numbers[0] < 1 or numbers[0] != int(numbers[0]):
        raise UserError(f"{option} {text}", "is not K,ALPHA", "write for example 10,3")
    return int(numbers[0]), numbers[1]


def export(
    root: Root,
    target: Annotated[str, typer.Argument(help="An empty folder or s3:// prefix.")],
    form: Annotated[
        str,
        typer.Option(
            help="faiss: one index and its names; npy: a matrix and its names; hloc: HDF5 of global descriptors; "
            "kapture: global features; hf: a Hugging Face dataset and its faiss index."
        ),
    ] = "faiss",
    index: Index = "",
    as_json: Json = False,
) -> int:
    """Write the live images for others to serve: plain faiss, NumPy, hloc, kapture, Hugging Face datasets."""
    data = export_job.export(export_job.ExportOptions(root=root, target=target, form=form, index=index))
    output.emit(data, as_json=as_json, lines=export_job.lines(data))
    return 0


COMMANDS: tuple[Command, ...] = ((status, {}), (query, {}), (export, {}))
