"""Failures: containers whose bytes are the reason why they cannot be read, remembered so that no run reads them again.

A record saves work, and nothing depends on it: any may be lost, written twice or deleted. It holds for a shard id, and
so for the size and etag of the container, under the settings that read it. What is malformed, of another container, or
of a release that read in another way counts as absent, and so does one beside a completion record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import ExistsError, IntegrityError, UserError
from pipeline.core.specs import canonical
from pipeline.core.types import DescriptorFile, Entry, Record, Shard
from pipeline.publish.catalog import Catalog
from pipeline.publish.plan import SCHEMA, Plan, entries_of, planned
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Snapshot

READING = 1
"""Raised by a release that reads what those before could not: it tries once more what they remembered."""
FOLDER = "failures"
_SIDE_BY_SIDE = 8
_LOOK_BACK = 100


class Failure(Record):
    """A container that failed. path, size, etag: as it was listed; changed: see Entry, null where nothing says it.

    since: when it failed first; attempts: runs in which it failed.
    """

    shard_id: str
    path: str
    size: int
    etag: str
    changed: int | None = None
    reason: str
    since: str
    attempts: int = 1
    reading: int = READING

    def again(self, reason: str) -> Failure:
        """Return the record once the container has failed another time."""
        return self.model_copy(update={"reason": reason, "attempts": self.attempts + 1, "reading": READING})


def failure_of(shard: Shard, reason: str, now: str) -> Failure:
    """Return the record of a container that failed for the first time."""
    (entry,) = shard.entries
    return Failure(
        shard_id=shard.id,
        path=entry.path,
        size=entry.size,
        etag=entry.etag,
        changed=entry.changed,
        reason=reason,
        since=now,
    )


def remember(catalog: Catalog, recipe: Recipe, failure: Failure) -> None:
    """Record a failure; of several runs that do so the one of most attempts counts, and the first of equal ones."""
    name = catalog.failure_name(recipe.source_id, failure.shard_id)
    data = canonical(failure.model_dump(mode="json"))
    try:
        catalog.store.put_if_absent(name, data)
    except ExistsError:
        known = catalog.record(name, Failure)
        same = known is not None and known.shard_id == failure.shard_id and _holds(known, failure)
        if known is None or not same or known.attempts < failure.attempts:
            catalog.store.write(name, data)


def forget(catalog: Catalog, recipe: Recipe, shards: Iterable[str]) -> None:
    """Delete the records of shards, so that they are tried again whatever becomes of the run that does."""
    for shard in shards:
        catalog.store.delete(catalog.failure_name(recipe.source_id, shard))


def _read_all(catalog: Catalog, recipe: Recipe, shards: Iterable[str]) -> dict[str, Failure]:
    """Return the records of shards that are sound, and about the shard that they are named after."""
    names = sorted(shards)
    with ThreadPoolExecutor(_SIDE_BY_SIDE, "failures") as pool:
        records = pool.map(lambda shard: _read(catalog, recipe, shard), names)
        return {name: record for name, record in zip(names, records, strict=True) if record is not None}


def _read(catalog: Catalog, recipe: Recipe, shard: str) -> Failure | None:
    found = catalog.record(catalog.failure_name(recipe.source_id, shard), Failure)
    if found is None or found.shard_id != shard:
        return None
    done = catalog.record(catalog.record_name(recipe.descriptor_id, shard), DescriptorFile)
    return found if done is None else None


def remembered(catalog: Catalog, recipe: Recipe, plan: Plan) -> tuple[dict[str, Failure], tuple[str, ...]]:
    """Return what is known to fail of a plan's new shards, by shard id, and those whose record does not count."""
    there = {_shard_of(entry.path) for entry in catalog.store.list(f"{FOLDER}/{recipe.source_id}")}
    if not there:
        return {}, ()
    listed = {shard: entry for entry, shard in _new(plan, there)}
    found = _read_all(catalog, recipe, listed)
    known = {shard: record for shard, record in found.items() if _holds(record, listed[shard])}
    return known, tuple(sorted(listed.keys() - known.keys()))


def _new(plan: Plan, shards: Collection[str]) -> Iterator[tuple[Entry, str]]:
    names = pa.array(sorted(shards), pa.string())
    for batch in plan.batches():
        yield from entries_of(batch.filter(pc.and_(pc.equal(batch["status"], "add"), pc.is_in(batch["shard"], names))))


def _holds(record: Failure, now: Entry | Failure) -> bool:
    """Tell whether a record is about the bytes of a container as it is listed, or as another record has it."""
    if record.reading != READING or (record.path, record.size, record.etag) != (now.path, now.size, now.etag):
        return False
    return None in (record.changed, now.changed) or record.changed == now.changed


def without(plan: Plan, failures: Mapping[str, Failure]) -> Plan:
    """Return the plan that leaves shards alone that are known to fail: what is published of their paths stays."""
    if not failures:
        return plan
    rest = planned(_rows(plan, pa.array(sorted(failures), pa.string())), source=plan.source, packing=plan.packing)
    return replace(rest, reason=f"{rest.reason}, {len(failures)} failed before and have not changed")


def _rows(plan: Plan, failed: pa.Array) -> Iterator[pa.Table]:
    for batch, shards in zip(plan.spool.batches(), plan.batches(), strict=True):
        lost = pc.and_(pc.equal(shards["status"], "add"), pc.is_in(shards["shard"], failed))
        paths = shards.filter(lost)["path"]
        # A changed entry's two rows lie in one batch.
        stays = pc.and_(pc.equal(batch["status"], "drop"), pc.is_in(batch["path"], paths))
        status = pc.if_else(stays, "keep", batch["status"])
        rows = batch.set_column(SCHEMA.get_field_index("status"), SCHEMA.field("status"), status)
        yield pa.Table.from_batches([rows.filter(pc.invert(lost))], SCHEMA)


def needed(catalog: Catalog, head: Snapshot) -> Iterator[tuple[Entry, bool]]:
    """Yield the records of all recipes, and whether a run may still need each.

    What the run of a snapshot saw fail is in its summary: a record from before the latest one that is not there is of a
    container that has changed, has been read since, or is no longer listed.
    """
    entries = list(catalog.store.list(FOLDER))
    if not entries:
        return
    seen = _latest_run(catalog, head)
    failing = set(seen.summary.set_aside)
    published = catalog.store.stat(catalog.snapshot_name(seen.version)).modified
    for entry in entries:
        is_current = _shard_of(entry.path) in failing or entry.modified >= published
        yield entry, is_current and entry.path.split("/")[1] == head.recipe.source_id


def _latest_run(catalog: Catalog, head: Snapshot) -> Snapshot:
    """Return the latest snapshot that a run over the source has published; others say nothing of what fails."""
    snapshot = head
    for version in range(head.version - 1, max(0, head.version - _LOOK_BACK), -1):
        if snapshot.operation == "index":
            break
        # One that cannot be read any more stops nobody: at worst an archive is read once more.
        with suppress(IntegrityError, UserError):
            snapshot = catalog.load(version)
    return snapshot


def _shard_of(name: str) -> str:
    """Return the shard that a record is named after; "" for the name of something else."""
    parts = name.split("/")
    return parts[2].removesuffix(".json") if len(parts) == 3 and parts[2].endswith(".json") else ""


def failing(catalog: Catalog, head: Snapshot) -> list[Failure]:
    """Return the containers that are known to fail as of a snapshot, by path."""
    shards = [_shard_of(entry.path) for entry, is_needed in needed(catalog, head) if is_needed]
    found = _read_all(catalog, head.recipe, (shard for shard in shards if shard))
    return sorted(found.values(), key=lambda failure: failure.path)
