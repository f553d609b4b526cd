"""The commands that make pages to look at: report, and duplicates. The work is in the modules of these names."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import duplicates as duplicates_job
from jobs import output
from jobs import report as report_job
from jobs.cli_options import Command, Device, Json, Root
from jobs.progress import Reporter

Index = Annotated[str, typer.Option(help="Index kind to search; the snapshot's best by default.")]


def report(
    root: Root,
    out: Annotated[str, typer.Option(help="HTML file to write, local or s3://.")] = "report.html",
    queries: Annotated[str, typer.Option(help="Folder of query images; images of the collection by default.")] = "",
    samples: Annotated[int, typer.Option(min=0, help="Sample queries that are shown with their results.")] = 8,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Write one page on the health of ROOT: contents, descriptors, indexes, recall, sample queries, history."""
    options = report_job.ReportOptions(root=root, out=out, queries=queries, samples=samples, device=device)
    data = report_job.report(options, Reporter())
    output.emit(data, as_json=as_json, lines=report_job.lines(data))
    return 0


def duplicates(
    root: Root,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Cosine from which two images are linked. "
            f"[default: {duplicates_job.THRESHOLD}; {duplicates_job.RECIPE_THRESHOLD} if --recipe duplicates made ROOT]"
        ),
    ] = None,
    neighbours: Annotated[int, typer.Option(min=1, help="Links that one image contributes at most.")] = 20,
    index: Index = "",
    out: Annotated[str, typer.Option(help="Parquet file to write: group, key, uri, similarity.")] = "",
    page: Annotated[str, typer.Option(help="HTML file to write: the groups with their pictures.")] = "",
    shown: Annotated[int, typer.Option(min=1, help="Groups on the page, the largest first.")] = 50,
    as_json: Json = False,
) -> int:
    """Group near-duplicate images: those linked by a similarity above a threshold.

    Index with `--recipe duplicates` for it: copies of another size, recompressed, mirrored or cropped are then alike.
    """
    options = duplicates_job.DuplicatesOptions(
        root=root, threshold=threshold, neighbours=neighbours, index=index, out=out, page=page, shown=shown
    )
    data = duplicates_job.duplicates(options, Reporter())
    output.emit(data, as_json=as_json, lines=duplicates_job.lines(data))
    return 0


COMMANDS: tuple[Command, ...] = ((report, {}), (duplicates, {}))
