"""The commands that keep a ROOT in order, and convert. What indexes is in cli_index.py."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs import compact as compact_job
from jobs import convert as convert_job
from jobs import delete as delete_job
from jobs import expire as expire_job
from jobs import output
from jobs import repair as repair_job
from jobs import rollback as rollback_job
from jobs import verify as verify_job
from jobs.cli_options import Command, Json, Root, RunnerKind
from jobs.progress import Reporter
from jobs.runners import RunnerOptions
from jobs.units import human_bytes
from pipeline.core.errors import UserError
from pipeline.core.names import public_url
from pipeline.core.storage import split_location
from pipeline.core.text import decoded
from pipeline.stages.expire import DAY, Retention

Keys = Annotated[list[str] | None, typer.Argument(help="Keys of images, as queries print them.")]
KeyFile = Annotated[str | None, typer.Option("--from", help="Text file with a key per line.")]
MissingOk = Annotated[bool, typer.Option(help="Count keys that are not there instead of refusing them.")]


def delete(
    root: Root,
    keys: Keys = None,
    from_file: KeyFile = None,
    missing_ok: MissingOk = False,
    copies: Annotated[bool, typer.Option("--copies", help="Delete other images of equal bytes, too.")] = False,
    as_json: Json = False,
) -> int:
    """Take images out for good, by key.

    They stay out whatever the source holds, until they are restored; so do later copies of them under other keys.
    """
    options = delete_job.EditOptions(root=root, keys=_keys(keys, from_file), missing_ok=missing_ok, copies=copies)
    data = delete_job.delete(options)
    lines = [*_edited(data, f"{data['deleted']} images deleted"), *delete_job.notes(data)]
    output.emit(data, as_json=as_json, lines=lines)
    return 0


def restore(
    root: Root, keys: Keys = None, from_file: KeyFile = None, missing_ok: MissingOk = False, as_json: Json = False
) -> int:
    """Allow deleted images back; the next indexing run brings them."""
    options = delete_job.EditOptions(root=root, keys=_keys(keys, from_file), missing_ok=missing_ok)
    data = delete_job.restore(options)
    what = f"{data['restored']} images are allowed again, `sightline index` brings them back"
    output.emit(data, as_json=as_json, lines=_edited(data, what))
    return 0


def rollback(
    root: Root,
    version: Annotated[int, typer.Argument(help="The snapshot to go back to; see `sightline status`.")],
    as_json: Json = False,
) -> int:
    """Publish an older snapshot's content as the newest; what was deleted by key stays deleted."""
    data = rollback_job.rollback(rollback_job.RollbackOptions(root=root, version=version))
    line = f"published snapshot {data['snapshot']} with the content of {data['content_of']}: {data['images']} images"
    output.emit(data, as_json=as_json, lines=[line])
    return 0


def tag(
    root: Root,
    name: Annotated[str, typer.Argument(help="A name: letters, digits, dots, hyphens, underscores.")],
    version: Annotated[int | None, typer.Option("--snapshot", help="Which snapshot. [default: the head]")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Take the name away.")] = False,
    as_json: Json = False,
) -> int:
    """Name a snapshot, so that it is never expired."""
    data = rollback_job.tag(rollback_job.TagOptions(root=root, name=name, version=version, delete=delete))
    line = f"tag {name} was deleted" if delete else f"snapshot {data['snapshot']} is kept as {name}"
    output.emit(data, as_json=as_json, lines=[line])
    return 0


def expire(
    root: Root,
    keep_last: Annotated[int, typer.Option(min=1, help="Latest snapshots that are kept.")] = 1,
    keep_days: Annotated[float, typer.Option(min=0, help="Days a snapshot is kept after it was superseded.")] = 7.0,
    grace_days: Annotated[float, typer.Option(min=0, help="Days an object must be old to be deleted.")] = 7.0,
    dry_run: Annotated[bool, typer.Option(help="List what would go; write nothing.")] = False,
    as_json: Json = False,
) -> int:
    """Give old snapshots up, and delete what nothing kept, tagged or running reaches."""
    retention = Retention(keep_last=keep_last, keep_seconds=keep_days * DAY, grace_seconds=grace_days * DAY)
    options = expire_job.ExpireOptions(root=root, retention=retention, dry_run=dry_run)
    data = expire_job.expire(options, Reporter())
    output.emit(data, as_json=as_json, lines=expire_job.lines(data))
    return 0


def compact(
    root: Root,
    rows_per_index_shard: Annotated[int, typer.Option(min=1, help="Bound on an index shard.")] = 2_000_000,
    least_dead: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Rewrite files with at least this share of dead rows.")
    ] = 0.0,
    runner: Annotated[RunnerKind, typer.Option(help="inline, or ray.")] = RunnerKind.inline,
    address: Annotated[str, typer.Option(help="Ray cluster to join. [default: a local one]")] = "",
    workers: Annotated[int, typer.Option(min=0, help="Ray workers; 0: one per two CPUs.")] = 0,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done; write nothing.")] = False,
    as_json: Json = False,
) -> int:
    """Rewrite files without their dead rows, merge small index shards, publish."""
    options = compact_job.CompactOptions(
        root=root,
        rows_per_index_shard=rows_per_index_shard,
        least_dead=least_dead,
        runner=RunnerOptions(kind=runner.value, address=address, workers=workers),
        dry_run=dry_run,
    )
    data = compact_job.compact(options, Reporter())
    done = (
        f"{data['rewritten']} descriptor files rewritten, {data['refilled']} index shards filled anew, "
        f"{data['merged']} merged"
    )
    if dry_run:
        line = f"would be: {done}"
    elif data["published"]:
        line = f"published snapshot {data['snapshot']}: {done}"
    else:
        line = f"snapshot {data['snapshot']} is compact: nothing to gain"
    output.emit(data, as_json=as_json, lines=[line])
    return 0


def verify(
    root: Root,
    snapshot: Annotated[int | None, typer.Option(help="Which one. [default: the head]")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Publish the head without what is broken; `index` makes it again.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Check size and sha256 of everything that a snapshot names."""
    if repair:
        return _repair(root, snapshot, as_json=as_json)
    result = verify_job.verify(root, Reporter(), snapshot)
    data: dict[str, Any] = {**vars(result), "ok": not result.faults}
    summary = f"snapshot {result.snapshot}: {result.objects} objects, {human_bytes(result.bytes)}"
    good = [f"{summary}, all as recorded"]
    output.emit(data, as_json=as_json, lines=list(result.faults) or good)
    return 1 if result.faults else 0


def convert(
    checkpoint: Annotated[str, typer.Argument(help="A DIR or cirtorch checkpoint, or a weight file.")],
    folder: Annotated[str, typer.Argument(help="Local folder for safetensors and JSON.")],
    as_json: Json = False,
) -> int:
    """Turn a foreign checkpoint into safetensors + JSON.

    DIR, cirtorch and plain weight files; no pickled code is run.
    """
    data = convert_job.convert(checkpoint, folder)
    output.emit(data, as_json=as_json, lines=convert_job.lines(data))
    return 0


COMMANDS: tuple[Command, ...] = tuple(
    (command, {}) for command in (verify, delete, restore, rollback, tag, expire, compact, convert)
)


def _repair(root: str, snapshot: int | None, *, as_json: bool) -> int:
    if snapshot is not None:
        raise UserError("--repair", "mends the head only", "leave --snapshot out")
    verified, repaired = repair_job.repair(repair_job.RepairOptions(root=root), Reporter())
    data: dict[str, Any] = {**vars(verified), "ok": not verified.faults, "repaired": vars(repaired)}
    summary = f"snapshot {verified.snapshot}: {verified.objects} objects, {human_bytes(verified.bytes)}"
    good = [f"{summary}, all as recorded"]
    output.emit(data, as_json=as_json, lines=[*verified.faults, *repair_job.lines(repaired)] or good)
    return 1 if repaired.left else 0


def _keys(keys: list[str] | None, from_file: str | None) -> list[str]:
    found = list(keys or [])
    if from_file is not None:
        store, name = split_location(from_file)
        found += [line for line in decoded(store.read(name), f"--from {public_url(from_file)}").splitlines() if line]
    if not found:
        raise UserError("no keys", "were given", "name them, or a file with --from")
    return found


def _edited(data: dict[str, Any], what: str) -> list[str]:
    lines = [f"published snapshot {data['snapshot']}: {what}, {data['images']} images"]
    if not data["published"]:
        lines = [f"snapshot {data['snapshot']} stays: nothing to change"]
    return [*lines, *(f"unknown: {key}" for key in data["unknown"])]
