"""Compact: drop tombstoned rows from descriptor files, and merge small index shards into large ones.

A rewritten descriptor file is named by its content, so doing it twice gives the same object. Index shards over
rewritten files are filled anew with the same trained index; the others are merged as they are, their ids moved by
positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core import staging
from pipeline.core.resources import PROCESS_BYTES, Resources
from pipeline.core.specs import digest_of
from pipeline.core.storage import open_store
from pipeline.core.types import DescriptorFile, IndexShard, Ints
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.stages.kinds import index_spec
from pipeline.table import DescriptorReader, write_table


@dataclass(frozen=True, kw_only=True)
class RewriteItem:
    """One descriptor file, and its rows to leave out."""

    file: DescriptorFile
    dead: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RewriteTask:
    """Work for a runner: from a RewriteItem to the record of the new DescriptorFile."""

    root: str
    recipe: Recipe

    resources = Resources(memory=PROCESS_BYTES)

    def open(self, threads: int) -> RewriteTask:  # noqa: ARG002 - part of the protocol
        """Nothing to load."""
        return self

    def __call__(self, item: RewriteItem) -> DescriptorFile:
        """Copy the live rows."""
        catalog = Catalog(open_store(self.root))
        file = item.file
        with staging.folder() as name:
            target = Path(name) / "live.parquet"
            rows, images = without_images(
                catalog.fetch(file.artifact, Path(name)), target, np.array(item.dead), name=file.artifact.uri
            )
            writer, artifact = catalog.upload_rewritten(target, self.recipe.descriptor_id, file.shard_id)
        return file.model_copy(update={"writer": writer, "artifact": artifact, "rows": rows, "indexed": images})


def without_images(source: Path, target: Path, dead: Ints, *, name: str) -> tuple[int, int]:
    """Copy a descriptor file without some images; return (rows, images) of the copy. Nothing else changes."""
    reader = DescriptorReader(source, name)
    table, total = reader.whole(), len(reader.keys())
    live = np.setdiff1d(np.arange(total), dead)
    if reader.is_local:
        numbers = table["image_row"].to_numpy()
        table = table.filter(pa.array(np.isin(numbers, live)))
        anew = np.searchsorted(live, table["image_row"].to_numpy()).astype(np.int32)
        place = table.schema.get_field_index("image_row")
        table = table.set_column(place, table.schema.field(place), pa.array(anew))
    else:
        table = table.take(pa.array(live))
    write_table(table, target)
    return int(table.num_rows), len(live)


@dataclass(frozen=True, kw_only=True)
class MergeTask:
    """Work for a runner: from index shards of one kind and one trained index to the IndexShard that holds them all.

    memory: see merge_memory.
    """

    root: str
    recipe: Recipe
    memory: int = PROCESS_BYTES

    @property
    def resources(self) -> Resources:
        """The largest of the index shards that are made, and the process."""
        return Resources(memory=self.memory)

    def open(self, threads: int) -> MergeTask:  # noqa: ARG002 - part of the protocol
        """Nothing to load."""
        return self

    def __call__(self, parts: tuple[IndexShard, ...]) -> IndexShard:
        """Merge and store; return what an earlier run stored of the same parts."""
        catalog = Catalog(open_store(self.root))
        first = parts[0]
        spec = index_spec(self.recipe, first.kind)
        key = digest_of({"merge": [part.artifact.sha256 for part in parts], "files": [part.files for part in parts]})
        record = catalog.index_record_name(first.fingerprint, key)
        done = catalog.record(record, IndexShard)
        if done is not None:
            return done
        with staging.folder() as name:
            target = Path(name) / f"merged{spec.suffix}"
            paths, positions = [], 0
            for part in parts:
                paths.append((catalog.fetch(part.artifact, Path(name)), positions))
                positions += len(part.files)
            rows = spec.merge(paths, target)
            artifact = catalog.upload_index(target, first.fingerprint, spec.suffix)
        files = tuple(name for part in parts for name in part.files)
        merged = first.model_copy(update={"artifact": artifact, "rows": rows, "files": files})
        return catalog.complete(record, merged)


def to_rewrite(descriptors: pa.Table, tombstones: pa.Table, least: float) -> list[RewriteItem]:
    """Return the live files of whose rows at least the share `least` is dead."""
    dead = manifests.tombstones(tombstones)
    named = descriptors.filter(manifests.among(descriptors["id"], pa.array(list(dead), pa.string())))
    return [
        RewriteItem(file=file, dead=tuple(dead[file.id].tolist()))
        for file in manifests.descriptor_files(named)
        if len(dead[file.id]) >= least * file.indexed
    ]


def to_merge(shards: list[IndexShard], max_rows: int) -> list[tuple[IndexShard, ...]]:
    """Return groups of two or more small shards of one kind that fit into `max_rows` rows together."""
    groups: list[list[IndexShard]] = []
    small = [shard for shard in shards if 2 * shard.rows <= max_rows]
    for shard in sorted(small, key=lambda shard: (shard.kind, shard.files)):
        last = groups[-1] if groups else []
        fits = last and last[0].kind == shard.kind and last[0].trained == shard.trained
        if fits and sum(part.rows for part in last) + shard.rows <= max_rows:
            last.append(shard)
        else:
            groups.append([shard])
    return [tuple(group) for group in groups if len(group) > 1]


def merge_memory(merges: Sequence[Sequence[IndexShard]]) -> int:
    """Return the bytes of memory that the largest of some merges takes in a worker."""
    return PROCESS_BYTES + max((sum(part.artifact.bytes for part in parts) for parts in merges), default=0)
