"""The commands that measure: evaluate, sweep. The work is in the modules of these names, and in compare.py."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import compare as compare_job
from jobs import evaluate as evaluate_job
from jobs import output
from jobs import sweep as sweep_job
from jobs.cli_options import Command, Device, Json, Root
from jobs.cli_search import BoxAs, Index, Verify, as_box_scale, as_expansion
from jobs.compare import version_of
from jobs.progress import Reporter
from pipeline.core.errors import UserError
from pipeline.evaluate.bootstrap import RESAMPLES
from pipeline.evaluate.settings import Goal

Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")]
Snapshot = Annotated[str, typer.Option(help="Number or tag of a snapshot; the latest by default.")]


def evaluate(
    root: Annotated[str, typer.Argument(help="Where everything is published; not with --results.")] = "",
    queries: Annotated[str, typer.Option(help="Folder of query images.")] = "",
    ground_truth: Annotated[str, typer.Option(help="JSON: query key -> relevant keys, or the revisited format.")] = "",
    classes: Annotated[
        bool, typer.Option("--classes", help="Every image asks for the others of its folder, instead of queries.")
    ] = False,
    class_level: Annotated[
        int, typer.Option(help="Which folder of a key is the class: 1 the first, -1 the one that the image is in.")
    ] = -1,
    sample: Annotated[int | None, typer.Option(min=1, help="With --classes: only so many images ask.")] = None,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(help="Two snapshots (41 42, v41, or tags): do they really differ?")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the queries, for --compare.")] = RESAMPLES,
    export: Annotated[str, typer.Option(help="Parquet file to write: query, rank, key, score.")] = "",
    results: Annotated[str, typer.Option(help="Score such a file; nothing is searched.")] = "",
    depth: Annotated[
        int | None, typer.Option(min=1, help="Results per query. [default: all; fewer for --classes beyond 20,000]")
    ] = None,
    allow_unknown: Annotated[
        bool, typer.Option(help="Go on although ground truth names queries or images that are not there.")
    ] = False,
    snapshot: Snapshot = "",
    index: Index = "",
    effort: Annotated[
        int | None, typer.Option(min=1, help="nprobe, ef_search or checks, by index kind. [default: the recipe's]")
    ] = None,
    rerank: Annotated[
        int | None, typer.Option(min=0, help="Candidates scored exactly from stored descriptors. [default: 100]")
    ] = None,
    verify: Verify = 0,
    expand: Annotated[str | None, typer.Option(help="K,ALPHA: query expansion with the K best results.")] = None,
    augment: Annotated[
        str | None, typer.Option(help="K,ALPHA: expand what is indexed by its K nearest others, in memory, exactly.")
    ] = None,
    box_scale: BoxAs = "own",
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Score rankings against ground truth, or compare two snapshots by it.

    mAP, P@k, R@k and nDCG@k, or the revisited Oxford/Paris protocol, by the form of the file. In the revisited form
    images that imlist does not name are negatives. Ground truth of which more than 5 % is unknown is refused.
    """
    options = evaluate_job.EvaluateOptions(
        root=root,
        queries=queries,
        ground_truth=ground_truth,
        index=index,
        rerank=rerank,
        verify=verify,
        expand=as_expansion(expand),
        augment=as_expansion(augment, "--augment"),
        box_scale=as_box_scale(box_scale),
        device=device,
        classes=classes,
        level=class_level,
        sample=sample,
        seed=seed,
        depth=depth,
        effort=effort,
        export=export,
        results=results,
        version=version_of(root, snapshot) if snapshot else None,
        allow_unknown=allow_unknown,
    )
    if compare is not None:
        data = compare_job.compare(options, *compare, Reporter(), resamples=resamples)
        output.emit(data, as_json=as_json, lines=compare_job.lines(data))
        return 0
    data = evaluate_job.evaluate(options, Reporter())
    output.emit(data, as_json=as_json, lines=evaluate_job.lines(data))
    return 0


def sweep(
    root: Root,
    index: Annotated[str, typer.Option(help="Index kind; the snapshot's best approximate one by default.")] = "",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Neighbours that count.")] = 10,
    queries: Annotated[int, typer.Option(min=1, help="Images of the collection that ask, drawn at random.")] = 1000,
    target: Annotated[float, typer.Option(min=0.0, max=1.0, help="Recall@k that is wanted.")] = 0.95,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes per vector in memory that are allowed.")] = 64,
    effort: Annotated[
        str, typer.Option(help="N,N,...: nprobe, ef_search or checks to try. [default: doubled from the recipe's]")
    ] = "",
    rerank: Annotated[
        str, typer.Option(help="N,N,...: candidates to re-rank. [default: as few as reach the target, up to 1000]")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.01, help="How long to time single queries of a setting.")] = 2.0,
    plot: Annotated[str, typer.Option(help="Picture to write, .svg or .png: recall against latency.")] = "",
    snapshot: Snapshot = "",
    seed: Seed = 0,
    as_json: Json = False,
) -> int:
    """Measure recall against latency of an index, and find the fastest setting that is good enough."""
    goal = Goal(
        target=target,
        max_bytes=max_bytes,
        efforts=_numbers(effort, "--effort", 1),
        reranks=_numbers(rerank, "--rerank", 0),
        seconds=seconds,
    )
    options = sweep_job.SweepOptions(
        root=root,
        index=index,
        k=k,
        queries=queries,
        seed=seed,
        goal=goal,
        plot=plot,
        version=version_of(root, snapshot) if snapshot else None,
    )
    data = sweep_job.sweep(options, Reporter())
    if as_json:
        output.emit(data, as_json=True)
    else:
        sweep_job.print_table(data)
    return 0


def _numbers(text: str, option: str, least: int) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isascii() and part.isdigit() and int(part) >= least for part in parts):
        raise UserError(f"{option} {text}", "is not a list of numbers", "write for example 1,2,4,8")
    return tuple(int(part) for part in parts)


COMMANDS: tuple[Command, ...] = ((evaluate, {}), (sweep, {}))
