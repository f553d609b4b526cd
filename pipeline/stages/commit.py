"""Commit: from the plan and what became of its shards to the lists of a new snapshot, and its publication.

A changed entry whose new shard was set aside stays as it was: nothing committed is lost to a failure. Whoever is no
longer listed becomes a tombstone as long as an index shard still holds it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.types import Artifact, DescriptorFile, IndexShard
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.plan import Plan
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Snapshot, Summary
from pipeline.table import DescriptorReader


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Lists after a plan was carried out, without new index shards, and how many images came and went."""

    lists: Lists
    added: int
    removed: int
    packed: bool

    @property
    def images(self) -> int:
        """Images that are live."""
        live = set(self.lists.descriptors["id"].to_pylist())
        dead = sum(len(t.rows) for t in manifests.tombstones(self.lists.tombstones) if t.file in live)
        return manifests.total(self.lists.descriptors, "indexed") - dead

    @property
    def duplicates(self) -> int:
        """Images that share a key with another one of their shard."""
        return manifests.total(self.lists.descriptors, "duplicates")

    @property
    def seen(self) -> int:
        """Images that the listed source holds."""
        if self.packed:
            return int(self.lists.listing.num_rows)
        return sum(manifests.total(self.lists.descriptors, name) for name in ("indexed", "rejected", "duplicates"))


def merge(catalog: Catalog, head: Lists, plan: Plan, done: Mapping[str, DescriptorFile], kept: Recipe) -> Merged:
    """Apply a plan to the head's lists. done: completion records of added shards; the others were set aside.

    kept: the recipe of the new snapshot; index shards of other index settings are left behind.
    """
    rows = plan.rows
    finished = pc.is_in(rows["shard"], pa.array(list(done), pa.string()))
    is_add, is_drop = pc.equal(rows["status"], "add"), pc.equal(rows["status"], "drop")
    failed = rows.filter(pc.and_(is_add, pc.invert(finished)))["path"]
    retained = pc.and_(is_drop, pc.is_in(rows["path"], failed.combine_chunks()))
    stays = pc.or_(pc.equal(rows["status"], "keep"), retained)
    listing = rows.filter(pc.or_(stays, pc.and_(is_add, finished))).select(manifests.LISTING.names)
    gone = rows.filter(pc.and_(is_drop, pc.invert(retained)))

    lost_files, dead_rows = _dead(catalog, head, gone, rows.filter(stays), plan.packed)
    descriptors = head.descriptors.filter(pc.invert(pc.is_in(head.descriptors["id"], _strings(lost_files))))
    fresh = [done[shard] for shard in sorted(done)]
    new = manifests.descriptor_table(file for file in fresh if file.id not in set(descriptors["id"].to_pylist()))
    descriptors = pa.concat_tables([descriptors, new]).sort_by("id")

    live = set(descriptors["id"].to_pylist())
    current = {kept.index_id(spec) for spec in kept.indexes}
    shards = [s for s in manifests.index_shards(head.indexes) if s.fingerprint in current and live & set(s.files)]
    tombstones = _tombstones(head, lost_files, dead_rows, set(new["id"].to_pylist()), live, shards)
    dead = sum(len(rows) for rows in dead_rows.values())
    whole = sum(file.indexed for file in lost_files.values()) - sum(
        len(rows) for name, rows in _old_tombstones(head).items() if name in lost_files
    )
    lists = Lists(
        listing=listing,
        descriptors=descriptors,
        indexes=manifests.index_table(shards),
        tombstones=manifests.tombstone_table(tombstones),
    )
    added = manifests.total(new, "indexed")
    return Merged(lists=lists, added=added, removed=dead + whole, packed=plan.packed)


def _strings(names: Iterable[str]) -> pa.Array:
    return pa.array(list(names), pa.string())


def _old_tombstones(head: Lists) -> dict[str, set[int]]:
    return {t.file: set(t.rows) for t in manifests.tombstones(head.tombstones)}


def _dead(
    catalog: Catalog, head: Lists, gone: pa.Table, staying: pa.Table, packed: bool
) -> tuple[dict[str, DescriptorFile], dict[str, set[int]]]:
    """Return (descriptor files that are lost whole, by id; newly dead rows of the others)."""
    shards = gone["shard"].unique()
    files = manifests.descriptor_files(head.descriptors.filter(pc.is_in(head.descriptors["shard_id"], shards)))
    alive = set(staying.filter(pc.is_in(staying["shard"], shards))["shard"].to_pylist()) if packed else set()
    already = _old_tombstones(head)
    lost: dict[str, DescriptorFile] = {}
    dead: dict[str, set[int]] = {}
    for file in files:
        if file.shard_id not in alive:
            lost[file.id] = file
            continue
        paths = set(gone.filter(pc.equal(gone["shard"], file.shard_id))["path"].to_pylist())
        with tempfile.TemporaryDirectory() as folder:
            keys = DescriptorReader(catalog.fetch(file.artifact, Path(folder)), file.artifact.uri).keys()
        # The key of a packed image is its path; what was rejected has no row to bury.
        rows = {row for row, key in enumerate(keys) if key in paths} - already.get(file.id, set())
        if rows:
            dead[file.id] = rows
    return lost, dead


def _tombstones(
    head: Lists,
    lost: Mapping[str, DescriptorFile],
    dead: Mapping[str, set[int]],
    returned: set[str],
    live: set[str],
    shards: Sequence[IndexShard],
) -> dict[str, Iterable[int]]:
    """Return the rows that are dead, of files that are live or that an index shard still holds."""
    indexed = {name for shard in shards for name in shard.files}
    rows = _old_tombstones(head)
    for name, fresh in dead.items():
        rows[name] = rows.get(name, set()) | fresh
    for name, file in lost.items():
        rows[name] = set(range(file.rows))
    return {name: dead for name, dead in rows.items() if (name in live or name in indexed) and name not in returned}


def publish(
    catalog: Catalog,
    *,
    head: Snapshot | None,
    lists: Lists,
    recipe: Recipe,
    source: str,
    writer: str,
    summary: Summary,
) -> Snapshot:
    """Write the manifests and commit the next snapshot."""

    def put(table: pa.Table) -> Artifact:
        return catalog.put_manifest(manifests.to_parquet(table))

    snapshot = Snapshot(
        version=head.version + 1 if head is not None else 1,
        parent=head.version if head is not None else None,
        writer=writer,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        recipe=recipe,
        listing=put(lists.listing),
        descriptors=put(lists.descriptors),
        indexes=put(lists.indexes),
        tombstones=put(lists.tombstones),
        artifacts=recipe_artifacts(recipe),
        summary=summary,
    )
    return catalog.commit(snapshot)


def recipe_artifacts(recipe: Recipe) -> tuple[Artifact, ...]:
    """Return every stored object that a recipe names: weights, whitening, codebooks."""
    found = [value for _, value in recipe.extractor if isinstance(value, Artifact)]
    if recipe.whiten is not None and recipe.whiten.artifact is not None:
        found.append(recipe.whiten.artifact)
    return tuple(found)
