"""The command line: options in, jobs called, results out. What the commands do is in the other modules of jobs/."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from jobs import cli_cluster, cli_upkeep, output
from jobs import evaluate as evaluate_job
from jobs import index as index_job
from jobs import query as query_job
from jobs import status as status_job
from jobs.cli_options import Json, RetrainKind, Root, RunnerKind
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from jobs.runners import RunnerOptions
from pipeline.core.errors import SightlineError, UserError
from pipeline.publish.plan import Packing
from pipeline.search.engine import SearchOptions
from pipeline.stages.extract import ExtractOptions

app = typer.Typer(
    name="sightline",
    help="Index image collections for instance retrieval: extract, whiten, index, publish, search.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: the GPU where there is one.")]
Index = Annotated[str, typer.Option(help="Index kind to search; the snapshot's best by default.")]
Rerank = Annotated[
    int | None, typer.Option(help="Candidates scored exactly from stored descriptors. [default: max(100, 10 K)]")
]


# typer carries its own click and shows these classes only as bases of what it exports.
USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[1]
CLICK_ERROR: type[Any] = typer.BadParameter.__mro__[2]


def _floats(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text}", "is not a list of numbers", "write for example 1,0.7071,0.5") from None


@app.command()
def index(
    source: Annotated[
        str, typer.Argument(help="The images: a folder, .tar shards, a list, Parquet or kapture; local or s3://.")
    ],
    root: Root,
    recipe: Annotated[str | None, typer.Option(help="A recipe file (TOML) or the name of one.")] = None,
    backbone: Annotated[str | None, typer.Option(help="torchvision backbone. [default: mobilenet_v2]")] = None,
    weights: Annotated[
        str | None, typer.Option(help="imagenet, a file or URI, or random:SEED. [default: imagenet]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A DIR, cirtorch or Sightline checkpoint; it knows its backbone.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="gem, mac, spoc, crow, rmac or raac. [default: gem]")] = None,
    gem_p: Annotated[float | None, typer.Option(help="Exponent of GeM. [default: 3]")] = None,
    scales: Annotated[str | None, typer.Option(help="Image scales, for example 1,0.7071,0.5. [default: 1]")] = None,
    resize: Annotated[
        str | None, typer.Option(help="longest:N, shortest:N, exact:WxH or none. [default: longest:1024]")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16, of the backbone. [default: fp32]")] = None,
    whiten: Annotated[
        str | None, typer.Option(help="none, pca (fitted on a sample), or FILE[#NAME]. [default: none]")
    ] = None,
    whiten_power: Annotated[float | None, typer.Option(help="Exponent on the eigenvalues. [default: 0.5]")] = None,
    dims: Annotated[
        int | None, typer.Option(help="Dimensions kept by whitening. [default: all that have variance]")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float16 or float32, of stored descriptors. [default: float16]")
    ] = None,
    indexes: Annotated[str | None, typer.Option(help="Index kinds. [default: flat,ivfpq,lsh]")] = None,
    source_kind: Annotated[
        str | None, typer.Option(help="tar, folder, filelist, parquet or kapture. [default: detected]")
    ] = None,
    match: Annotated[str | None, typer.Option(help="Glob on keys. [default: the image suffixes]")] = None,
    list_root: Annotated[str | None, typer.Option(help="Folder that the paths of a file list are relative to.")] = None,
    runner: Annotated[
        RunnerKind, typer.Option(help="inline: this process; ray: workers on a Ray cluster.")
    ] = RunnerKind.inline,
    address: Annotated[str, typer.Option(help="Ray cluster to join. [default: a local one]")] = "",
    workers: Annotated[int, typer.Option(min=0, help="Ray workers; 0: one per GPU, else one per two CPUs.")] = 0,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="GPUs per worker; fractions share one. [default: 1]")
    ] = None,
    device: Device = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Images of equal size per forward pass.")] = 8,
    files_per_shard: Annotated[int, typer.Option(min=1, help="Single files packed into one shard.")] = 512,
    rows_per_index_shard: Annotated[int, typer.Option(min=1, help="Bound on an index shard.")] = 2_000_000,
    index_memory: Annotated[float | None, typer.Option(help="GB that a loaded ivfpq index may take in all.")] = None,
    max_reject_rate: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Publish nothing (exit 4) past this rate.")
    ] = None,
    retrain: Annotated[
        RetrainKind, typer.Option(help="auto: kinds that drifted past a threshold; always: all; never: none.")
    ] = RetrainKind.auto,
    replace_source: Annotated[
        bool, typer.Option(help="Let SOURCE take the place of the one this ROOT indexes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done and estimate it; write nothing.")] = False,
    trial_seconds: Annotated[
        float, typer.Option(min=0.0, help="How long a dry run tries real shards for its estimate.")
    ] = 10.0,
    as_json: Json = False,
) -> int:
    """Extract what is new, drop what is gone, publish one snapshot.

    A run that was interrupted goes on where it was; what is not said is as in the last snapshot.
    """
    options = index_job.IndexOptions(
        source=source,
        root=root,
        recipe=RecipeOptions(
            recipe=recipe,
            backbone=backbone,
            weights=weights,
            model=model,
            pooling=pooling,
            gem_p=gem_p,
            scales=_floats(scales, "--scales"),
            resize=resize,
            precision=precision,
            whiten=whiten,
            whiten_power=whiten_power,
            dims=dims,
            dtype=dtype,
            indexes=tuple(part.strip() for part in indexes.split(",") if part.strip()) if indexes is not None else None,
            source_kind=source_kind,
            match=match,
            source_fields={"root": list_root} if list_root is not None else {},
        ),
        runner=RunnerOptions(kind=runner.value, address=address, workers=workers, gpus_per_worker=gpus_per_worker),
        extract=ExtractOptions(device=device, batch=batch),
        packing=Packing(files=files_per_shard),
        rows_per_index_shard=rows_per_index_shard,
        memory_bytes=int(index_memory * 1e9) if index_memory is not None else None,
        max_reject_rate=max_reject_rate,
        retrain=retrain.value,
        replace_source=replace_source,
        dry_run=dry_run,
        trial_seconds=trial_seconds,
    )
    report = index_job.run_index(options, Reporter())
    output.emit(output.index_json(report), as_json=as_json, lines=output.index_lines(report, dry_run=dry_run))
    return report.exit_code


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def plan(context: typer.Context) -> int:
    """Say what `index` with the same arguments would do and take, and do nothing (index --dry-run)."""
    return int(app(args=["index", *context.args, "--dry-run"], standalone_mode=False) or 0)


@app.command()
def status(
    root: Root,
    history: Annotated[int, typer.Option(min=1, help="How many of the latest snapshots to list.")] = 20,
    as_json: Json = False,
) -> int:
    """Show head, history, recipe, sizes and drift of ROOT."""
    data = status_job.status(root, history)
    output.emit(data, as_json=as_json, lines=output.status_lines(data))
    return 0


@app.command()
def query(
    root: Root,
    images: Annotated[list[str], typer.Argument(help="Query images, local or s3://.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Results per query.")] = 10,
    index: Index = "",
    rerank: Rerank = None,
    box: Annotated[str | None, typer.Option(help="X,Y,W,H: search with this part of the image, in its pixels.")] = None,
    expand: Annotated[str | None, typer.Option(help="K,ALPHA: query expansion with the K best results.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Find the images most similar to each query image."""
    corners = _floats(box, "--box")
    if corners is not None and len(corners) != 4:
        raise UserError(f"--box {box}", "is not four numbers", "write X,Y,W,H")
    options = query_job.QueryOptions(
        root=root,
        images=images,
        search=SearchOptions(k=k, index=index, rerank=rerank, expand=_expansion(expand)),
        box=None if corners is None else (corners[0], corners[1], corners[2], corners[3]),
        device=device,
    )
    data = query_job.query(options)
    if as_json:
        output.emit(data, as_json=True)
    else:
        output.print_hits(data)
    return 0


def _expansion(text: str | None) -> tuple[int, float] | None:
    numbers = _floats(text, "--expand")
    if numbers is None:
        return None
    if len(numbers) != 2 or numbers[0] < 1 or numbers[0] != int(numbers[0]):
        raise UserError(f"--expand {text}", "is not K,ALPHA", "write for example 10,3")
    return int(numbers[0]), numbers[1]


@app.command()
def evaluate(
    root: Root,
    queries: Annotated[str, typer.Option(help="Folder of query images.")],
    ground_truth: Annotated[str, typer.Option(help="JSON: query key -> relevant keys, or the revisited format.")],
    index: Index = "",
    rerank: Rerank = None,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Score the index against ground truth.

    mAP, P@1 and R@k, or the revisited Oxford/Paris protocol, by the form of the file.
    """
    options = evaluate_job.EvaluateOptions(
        root=root, queries=queries, ground_truth=ground_truth, index=index, rerank=rerank, device=device
    )
    data = evaluate_job.evaluate(options, Reporter())
    output.emit(data, as_json=as_json, lines=evaluate_job.lines(data))
    return 0


for command in (*cli_upkeep.COMMANDS, *cli_cluster.COMMANDS):
    app.command()(command)


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code. Errors are one line on stderr, and JSON where JSON was asked for."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        code = app(args=list(arguments), standalone_mode=False)
    except SightlineError as error:
        return _failed(str(error), error.exit_code, arguments)
    except USAGE_ERROR as error:
        return _failed(error.format_message(), 2, arguments)
    except typer.Exit as error:
        return int(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _failed("interrupted; run the same command again to go on, finished shards are kept", 130, arguments)
    except CLICK_ERROR as error:
        return _failed(error.format_message(), 2, arguments)
    return int(code or 0)


def _failed(line: str, code: int, arguments: Sequence[str]) -> int:
    print(f"sightline: {line}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps({"error": line, "exit": code}))
    return code


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
