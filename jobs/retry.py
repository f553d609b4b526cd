"""Rejected images that are tried again: after a release that reads their format, or once their cause is mended.

Single files are extracted by themselves; of a container every image is. What is published of them stays until the new
extraction has succeeded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from jobs.reasons import Reason, Reasons, rejects_of
from pipeline.core.stats import category
from pipeline.core.types import Reject
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe

_SEPARATOR = "\0"


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Entries to extract again, see pipeline.publish.plan.Again. names: shards, or of packed entries shard and path."""

    reason: str
    packed: bool
    names: pa.Array
    reasons: tuple[Reason, ...] = field(default=())

    @property
    def shards(self) -> tuple[str, ...]:
        """The shards that the entries are in, sorted."""
        return tuple(sorted({name.partition(_SEPARATOR)[0] for name in self.names.to_pylist()}))

    def chosen(self, known: pa.Table) -> pa.Array:
        """Return which rows of a listing are tried again, as booleans; null rows are not."""
        return pc.fill_null(pc.is_in(_names(known, self.packed), value_set=self.names), fill_value=False)


def rejected_before(catalog: Catalog, lists: Lists, version: int, *, packed: bool, reason: str) -> Retry:
    """Return the rejected images of a snapshot to try again: those whose reason contains `reason`, "" for all.

    version: of the snapshot. A run that was killed and tries again over the same one uses what is finished of it.
    """
    shards = dict(zip(lists.descriptors["id"].to_pylist(), lists.descriptors["shard_id"].to_pylist(), strict=True))
    wanted = reason.casefold()
    found: list[tuple[str, Reject]] = []
    for file, rejects in rejects_of(catalog, lists.descriptors):
        chosen = [r for r in rejects if wanted in r.reason.casefold() or wanted == category(r.reason).casefold()]
        shard = shards[file]
        found += [(f"{shard}{_SEPARATOR}{reject.key}" if packed else shard, reject) for reject in chosen]
    current = _listed(lists, packed, pa.array([name for name, _ in found], pa.string()))
    counted = Reasons()
    for name, reject in found:
        if name in current:
            counted.add(reject.reason, reject.key)
    return Retry(
        reason=f"rejected in snapshot {version}",
        packed=packed,
        names=pa.array(sorted(current), pa.string()),
        reasons=counted.listed(),
    )


def withdraw(catalog: Catalog, recipe: Recipe, shards: Iterable[str]) -> None:
    """Delete the completion records of shards whose rejects are tried again; what is published of them stays.

    A shard that comes again, with a restored image, another recipe or a source that was away, would take up the rejects
    of its record otherwise.
    """
    recipes = {recipe.descriptor_id, recipe.raw.descriptor_id, recipe.local.descriptor_id, *recipe.donors(None)}
    for shard in shards:
        for name in sorted(recipes):
            catalog.store.delete(catalog.record_name(name, shard))


def _names(rows: pa.Table | pa.RecordBatch, packed: bool) -> pa.Array:
    return pc.binary_join_element_wise(rows["shard"], rows["path"], _SEPARATOR) if packed else rows["shard"]


def _listed(lists: Lists, packed: bool, names: pa.Array) -> set[str]:
    """Return the names that are still of the listing: what went into another shard since counts there."""
    current: set[str] = set()
    for batch in lists.listing.batches():
        rows = _names(batch, packed)
        current.update(rows.filter(pc.is_in(rows, value_set=names)).to_pylist())
    return current
