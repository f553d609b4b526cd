"""The commands that index: index, and plan, which only says what index would do. What they do is in index.py."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import index as index_job
from jobs import output
from jobs import profile as profile_job
from jobs.cli_options import Command, Device, Json, RetrainKind, Root, RunnerKind, floats
from jobs.index_report import index_json, index_lines
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from jobs.runners import RunnerOptions
from pipeline.publish.packing import Packing
from pipeline.stages.describe import ExtractOptions
from pipeline.stages.limits import IMAGE_SECONDS, SHARD_SECONDS
from pipeline.stages.unread import MAX_READ_ERRORS


def index(
    source: Annotated[
        str,
        typer.Argument(help="The images: a folder, .tar(.gz) shards, a list, Parquet or kapture; local or s3://."),
    ],
    root: Root,
    recipe: Annotated[str | None, typer.Option(help="A recipe file (TOML) or the name of one.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="torchvision backbone, or timm:NAME. [default: efficientnet_lite0]")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="imagenet, a file or URI, or random:SEED. [default: imagenet]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A DIR, cirtorch or Sightline checkpoint; it knows its backbone.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="gem, mac, spoc, crow, rmac, raac or cls. [default: gem]")] = None,
    gem_p: Annotated[float | None, typer.Option(help="Exponent of GeM. [default: 3]")] = None,
    scales: Annotated[str | None, typer.Option(help="Image scales, for example 1,0.7071,0.5. [default: 1]")] = None,
    resize: Annotated[
        str | None, typer.Option(help="longest:N, shortest:N, exact:WxH or none. [default: longest:1024]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, tf32 (on GPUs) or bf16, of the backbone. [default: fp32]")
    ] = None,
    decoding: Annotated[
        str | None, typer.Option(help="full, or reduced: large JPEGs at a fraction of their size. [default: full]")
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Images with more are rejected; a JPEG counts as decoded. [default: 64000000]"),
    ] = None,
    whiten: Annotated[
        str | None, typer.Option(help="none, pca (fitted on a sample), or FILE[#NAME]. [default: none]")
    ] = None,
    whiten_power: Annotated[float | None, typer.Option(help="Exponent on the eigenvalues. [default: 0.5]")] = None,
    dims: Annotated[
        int | None, typer.Option(help="Dimensions kept by whitening. [default: all that have variance]")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float16, float32 or binary (signs), of stored descriptors. [default: float16]")
    ] = None,
    indexes: Annotated[str | None, typer.Option(help="Index kinds. [default: flat,ivfpq,lsh]")] = None,
    source_kind: Annotated[
        str | None, typer.Option(help="tar, folder, filelist, parquet, arrow, npy or kapture. [default: detected]")
    ] = None,
    match: Annotated[str | None, typer.Option(help="Glob on keys. [default: the image suffixes]")] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Glob on keys and paths to pass over, beside system files; repeatable, '' for none. [none]"),
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option(help="Columns, or fields of .json beside images, to carry: license:string,year:int64. [none]"),
    ] = None,
    list_root: Annotated[str | None, typer.Option(help="Folder that the paths of a file list are relative to.")] = None,
    runner: Annotated[
        RunnerKind, typer.Option(help="inline: this process; ray: workers on a Ray cluster.")
    ] = RunnerKind.inline,
    address: Annotated[str, typer.Option(help="Ray cluster to join. [default: a local one]")] = "",
    workers: Annotated[
        int, typer.Option(min=0, help="Ray workers, at most; 0: one per GPU, else one per two CPUs.")
    ] = 0,
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0.0, help="GPUs per worker; fractions share one, 0: none. [default: 1]")
    ] = None,
    cpus_per_worker: Annotated[
        int, typer.Option(min=0, help="CPUs, and threads, of a worker; 0: its share of its node's cores.")
    ] = 0,
    device: Device = "auto",
    batch: Annotated[int, typer.Option(min=0, help="Images of equal size per forward pass; 0: by their size.")] = 0,
    files_per_shard: Annotated[int, typer.Option(min=1, help="Single files packed into one shard.")] = 512,
    rows_per_index_shard: Annotated[int, typer.Option(min=1, help="Bound on an index shard.")] = 2_000_000,
    index_memory: Annotated[
        float | None, typer.Option(help="GB that a loaded index may take, all counted; not flat.")
    ] = None,
    train_memory: Annotated[float, typer.Option(min=0.01, help="GB that the sample of a training may take.")] = 4.0,
    max_reject_rate: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Publish nothing (exit 4) past this rate.")
    ] = None,
    max_removal_rate: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Publish nothing (exit 4) when more than 100 images and more than this share would be removed.",
        ),
    ] = 0.2,
    max_failed_rate: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Publish nothing (exit 4) when more than 10 shards and more than this share failed."
        ),
    ] = 0.05,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Let a SOURCE without images empty the index. [default: exit 4]")
    ] = False,
    retry_rejected: Annotated[
        str | None,
        typer.Option(
            "--retry-rejected",
            "--retry-rejects",
            help="Try rejected images and failed shards again: all, or with =REASON those whose reason contains it.",
        ),
    ] = None,
    ignore_ctime: Annotated[
        bool,
        typer.Option(
            "--ignore-ctime",
            help="Take local files of the same size and time as unchanged, where backups or mounts change every ctime.",
        ),
    ] = False,
    max_read_errors: Annotated[
        int, typer.Option(min=1, help="End the run after so many reads in a row that failed.")
    ] = MAX_READ_ERRORS,
    image_timeout: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds to read an image, to decode it, and for its forward pass; past it, it is left to the next "
            "run. 0: no limit.",
        ),
    ] = IMAGE_SECONDS,
    shard_timeout: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds for a shard, and one more for each 100 kB of it; past it, it has failed for this run, on Ray "
            "after tries on 3 workers. 0: no limit.",
        ),
    ] = SHARD_SECONDS,
    retrain: Annotated[
        RetrainKind, typer.Option(help="auto: kinds that drifted past a threshold; always: all; never: none.")
    ] = RetrainKind.auto,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Fit whitening and codebook again; all descriptors are made again from it."),
    ] = False,
    replace_source: Annotated[
        bool, typer.Option(help="Let SOURCE take the place of the one this ROOT indexes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done and estimate it; write nothing.")] = False,
    trial_seconds: Annotated[
        float, typer.Option(min=0.0, help="How long a dry run tries real shards for its estimate.")
    ] = 10.0,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say where the time went and what limits the run.")
    ] = False,
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
            scales=floats(scales, "--scales"),
            resize=resize,
            precision=precision,
            decoding=decoding,
            max_pixels=max_pixels,
            whiten=whiten,
            whiten_power=whiten_power,
            dims=dims,
            dtype=dtype,
            indexes=tuple(part.strip() for part in indexes.split(",") if part.strip()) if indexes is not None else None,
            source_kind=source_kind,
            match=match,
            exclude=tuple(exclude) if exclude else None,
            metadata=metadata,
            source_fields={"root": list_root} if list_root is not None else {},
        ),
        runner=RunnerOptions(
            kind=runner.value,
            address=address,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            cpus_per_worker=cpus_per_worker,
        ),
        extract=ExtractOptions(device=device, batch=batch, image_seconds=image_timeout, shard_seconds=shard_timeout),
        packing=Packing(files=files_per_shard),
        rows_per_index_shard=rows_per_index_shard,
        memory_bytes=int(index_memory * 1e9) if index_memory is not None else None,
        train_bytes=int(train_memory * (1 << 30)),
        max_reject_rate=max_reject_rate,
        max_removal_rate=max_removal_rate,
        max_failed_rate=max_failed_rate,
        max_read_errors=max_read_errors,
        allow_empty=allow_empty,
        retry_rejected=retry_rejected,
        ignore_ctime=ignore_ctime,
        retrain=retrain.value,
        refit=refit,
        replace_source=replace_source,
        dry_run=dry_run,
        trial_seconds=trial_seconds,
    )
    report = index_job.run_index(options, Reporter())
    told = profile_job.profile(report) if profile else None
    data = index_json(report) | ({"profile": told} if told is not None else {})
    said = index_lines(report, dry_run=dry_run) + (profile_job.lines(told) if told is not None else [])
    output.emit(data, as_json=as_json, lines=said)
    return report.exit_code


def plan(context: typer.Context) -> int:
    """Say what `index` with the same arguments would do and take, and do nothing (index --dry-run)."""
    alone = typer.Typer()
    alone.command()(index)
    return int(alone(args=[*context.args, "--dry-run"], standalone_mode=False) or 0)


COMMANDS: tuple[Command, ...] = (
    (index, {}),
    (plan, {"context_settings": {"allow_extra_args": True, "ignore_unknown_options": True}}),
)
