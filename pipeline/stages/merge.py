"""Merge: from a plan and what became of its shards to the lists of a new snapshot. Publishes nothing.

A changed entry whose new shard was set aside stays as it was: nothing committed is lost to a failure. Whoever is no
longer listed, or was deleted by name, is a tombstone as long as a descriptor file or an index shard still holds it.
The listing is passed over in batches: memory grows with shards, not with images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.artifacts import file_digest
from pipeline.publish import manifests
from pipeline.publish.listing import SCHEMA as LISTING
from pipeline.publish.listing import NewListing
from pipeline.publish.lists import Lists
from pipeline.publish.plan import Plan
from pipeline.publish.recipe import Recipe
from pipeline.stages.deletions import copies_of, named
from pipeline.stages.find_rows import FindKeys
from pipeline.stages.kinds import source_spec
from pipeline.stages.removed import Moves, removed

AS_BEFORE = pa.array(["keep", "renew"])


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a run did. files: completion records of the shards it extracted, as a descriptor table sorted by id.

    failed: ids of the shards that were set aside. strays: entries, by shard, that have been indexed elsewhere meanwhile
    and do not count here (see rebase.py).
    """

    plan: Plan
    files: pa.Table
    failed: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    strays: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Lists after a plan was carried out, without new index shards, and the counts of its images.

    by_content: images that came and are deleted because their content was, under another key.
    """

    lists: Lists
    images: int
    seen: int
    duplicates: int
    added: int
    removed: int
    by_content: int = 0


@dataclass
class _Scan:
    """What a pass over the plan finds: the new listing; shards that entries left, came into; deleted entries.

    containers: shard -> path of those that came. unchanged: entries that hold copies of deleted images, as before.
    """

    listing: NewListing = field(default_factory=NewListing)
    left: set[str] = field(default_factory=set)
    used: list[pa.Array] = field(default_factory=list)
    deleted: int = 0
    buried: dict[str, list[str]] = field(default_factory=dict)
    containers: dict[str, str] = field(default_factory=dict)
    unchanged: set[str] = field(default_factory=set)


def merge(head: Lists, change: Change, recipe: Recipe, find: FindKeys) -> Merged:
    """Apply a change to the lists of the head. recipe: of the new snapshot; other index settings are left behind."""
    scan = _scan(change, head.deletions)
    gone = _gone_paths(change, scan.left) if change.plan.packed else {}
    old = manifests.tombstones(head.tombstones)

    used = _used(change.files, scan.used)
    left = head.descriptors.filter(_within(head.descriptors["shard_id"], scan.left - set(gone)))
    # A file that is there already comes again when its entries do: what was dead in it is judged anew.
    returned = head.descriptors.filter(manifests.among(head.descriptors["id"], used["id"]))
    lost = left.filter(pc.invert(manifests.among(left["id"], used["id"])))
    new = used.filter(pc.invert(manifests.among(used["id"], head.descriptors["id"])))

    kept = head.descriptors
    if lost.num_rows:
        kept = kept.filter(pc.invert(manifests.among(kept["id"], lost["id"])))
    descriptors = manifests.with_rows(kept, new)
    dead = removed(head, _moves(scan, used, gone, change), find, source_spec(recipe).key_is_row)
    reset = {*_named(old, returned), *_named(old, new)}
    rows = {name: dead for name, dead in old.items() if name not in reset}
    rows = manifests.united(rows, dead.rows)
    indexes = _indexes(head, descriptors, recipe)
    rows = manifests.united(rows, _whole(lost))
    tombstones = manifests.tombstone_table(_needed(rows, descriptors, indexes))

    came, went = _movement(head, new, returned, lost, (old, rows))
    images = live_images(descriptors, tombstones)
    deleted = scan.deleted + copies_of(dead.deletions).num_rows
    rejected, duplicates = manifests.total(descriptors, "rejected"), manifests.total(descriptors, "duplicates")
    return Merged(
        lists=Lists(
            listing=scan.listing.finish(),
            descriptors=descriptors,
            indexes=indexes,
            tombstones=tombstones,
            deletions=dead.deletions,
        ),
        images=images,
        seen=scan.listing.rows - deleted if change.plan.packed else images + rejected + duplicates,
        duplicates=duplicates,
        added=came,
        removed=went,
        by_content=dead.by_content,
    )


def live_images(descriptors: pa.Table, tombstones: pa.Table) -> int:
    """Return how many images are part of the collection."""
    mine = tombstones.filter(manifests.among(tombstones["file"], descriptors["id"]))
    return manifests.total(descriptors, "indexed") - int(pc.sum(pc.list_value_length(mine["rows"])).as_py() or 0)


def unchanged(lists: Lists, base: Lists) -> bool:
    """Tell whether lists say what a stored snapshot's say; index shards are not compared."""
    if not (lists.descriptors.equals(base.descriptors) and lists.tombstones.equals(base.tombstones)):
        return False
    # Equal rows give equal bytes.
    stored = base.listing.artifact
    new = lists.listing
    return stored is not None and isinstance(new, NewListing) and file_digest(new.path) == stored.sha256


def pruned(lists: Lists) -> Lists:
    """Return lists without the tombstones that nothing needs any more."""
    needed = _needed(manifests.tombstones(lists.tombstones), lists.descriptors, lists.indexes)
    return replace(lists, tombstones=manifests.tombstone_table(needed))


def _within(column: pa.ChunkedArray, names: set[str]) -> pa.ChunkedArray | pa.Array:
    return manifests.among(column, pa.array(list(names), pa.string()))


def _used(files: pa.Table, shards: list[pa.Array]) -> pa.Table:
    """Return the completion records of the shards that the new listing names."""
    there = manifests.among(files["shard_id"], pa.concat_arrays(shards) if shards else pa.array([], pa.string()))
    return files if pc.all(there).as_py() else files.filter(there)


def _moves(scan: _Scan, used: pa.Table, gone: dict[str, list[str]], change: Change) -> Moves:
    return Moves(
        came=used,
        containers=scan.containers,
        deleted=scan.buried,
        left=gone,
        strays=change.strays,
        unchanged=frozenset(scan.unchanged),
    )


def _scan(change: Change, deletions: pa.Table) -> _Scan:
    scan = _Scan()
    entries, copied = named(deletions)["entry"], copies_of(deletions)["entry"]
    for batch in change.plan.batches():
        add, drop = pc.equal(batch["status"], "add"), pc.equal(batch["status"], "drop")
        lost = manifests.among(batch["shard"], change.failed)
        done = pc.and_(add, pc.invert(lost))
        failed = batch.filter(pc.and_(add, lost))["path"]
        retained = pc.and_(drop, manifests.among(batch["path"], failed))
        stays = pc.or_(pc.or_(done, retained), pc.is_in(batch["status"], AS_BEFORE))
        rows = batch.filter(stays).select(LISTING.names)
        scan.listing.append(rows)
        scan.left.update(batch.filter(pc.and_(drop, pc.invert(retained)))["shard"].unique().to_pylist())
        fresh = batch.filter(done)
        scan.used.append(fresh["shard"].unique())
        if deletions.num_rows:
            if not change.plan.packed:
                scan.containers.update(zip(fresh["shard"].to_pylist(), fresh["path"].to_pylist(), strict=True))
            before = pc.and_(pc.is_in(batch["path"], copied), pc.and_(stays, pc.invert(done)))
            scan.unchanged.update(batch.filter(before)["path"].to_pylist())
            scan.deleted += int(pc.sum(pc.is_in(rows["path"], entries)).as_py() or 0)
            for row in fresh.filter(pc.is_in(fresh["path"], entries)).to_pylist():
                scan.buried.setdefault(row["shard"], []).append(row["path"])
    return scan


def _gone_paths(change: Change, left: set[str]) -> dict[str, list[str]]:
    """Return the paths that left, by shard, for the shards that other entries are still in."""
    if not left:
        return {}
    names = pa.array(list(left), pa.string())
    staying: set[str] = set()
    for moved, there in _touching(change, names):
        staying.update(there.filter(pc.invert(moved))["shard"].unique().to_pylist())
    paths: dict[str, list[str]] = {}
    for moved, there in _touching(change, pa.array(list(staying), pa.string())):
        for row in there.filter(moved).to_pylist():
            paths.setdefault(row["shard"], []).append(row["path"])
    return paths


def _touching(change: Change, shards: pa.Array) -> Iterator[tuple[pa.Array, pa.RecordBatch]]:
    """Yield (which rows leave, rows) of the old entries of some shards."""
    for batch in change.plan.batches():
        add = pc.equal(batch["status"], "add")
        failed = batch.filter(pc.and_(add, manifests.among(batch["shard"], change.failed)))["path"]
        there = batch.filter(pc.and_(pc.invert(add), manifests.among(batch["shard"], shards)))
        leaves = pc.and_(pc.equal(there["status"], "drop"), pc.invert(manifests.among(there["path"], failed)))
        yield leaves, there


def _indexes(head: Lists, descriptors: pa.Table, recipe: Recipe) -> pa.Table:
    """Return the index shards that stay: of the recipe's settings, with at least one file that is live."""
    current = pa.array([recipe.index_id(spec) for spec in recipe.indexes], pa.string())
    mine = head.indexes.filter(pc.is_in(head.indexes["fingerprint"], current))
    if not mine.num_rows:
        return mine
    column = mine["files"].combine_chunks()
    live = manifests.among(column.flatten(), descriptors["id"]).to_numpy(zero_copy_only=False)
    some = np.zeros(mine.num_rows, bool)
    np.logical_or.at(some, pc.list_parent_indices(column).to_numpy(), live)
    return mine.filter(pa.array(some))


def _whole(files: pa.Table) -> manifests.Rows:
    """Return every image of some descriptor files."""
    pairs = zip(files["id"].to_pylist(), files["indexed"].to_pylist(), strict=True)
    return {name: np.arange(images, dtype=np.int64) for name, images in pairs}


def _needed(rows: manifests.Rows, descriptors: pa.Table, indexes: pa.Table) -> manifests.Rows:
    """Return the tombstones of files that are live or that an index shard still holds."""
    names = pa.array(list(rows), pa.string())
    indexed = manifests.among(names, indexes["files"].combine_chunks().flatten())
    held = pc.or_(manifests.among(names, descriptors["id"]), indexed)
    return {name: rows[name] for name in names.filter(held).to_pylist()}


def _movement(
    head: Lists, new: pa.Table, returned: pa.Table, lost: pa.Table, rows: tuple[manifests.Rows, manifests.Rows]
) -> tuple[int, int]:
    """Return how many images came and went."""
    old, now = rows
    came = manifests.total(new, "indexed") - sum(len(now[name]) for name in _named(now, new))
    went = manifests.total(lost, "indexed") - sum(len(old[name]) for name in _named(old, lost))
    stayed = set(_named(now, head.descriptors)) - set(_named(now, lost)) | set(returned["id"].to_pylist())
    for name in stayed:
        more = len(now.get(name, ())) - len(old.get(name, ()))
        came, went = came + max(0, -more), went + max(0, more)
    return came, went


def _named(rows: manifests.Rows, table: pa.Table) -> list[str]:
    """Return the names of rows that are ids of a descriptor table."""
    names = pa.array(list(rows), pa.string())
    found: list[str] = names.filter(manifests.among(names, table["id"])).to_pylist()
    return found
