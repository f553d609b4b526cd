"""Fill copies of a trained index with groups of descriptor files: index shards of bounded size, built side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import staging
from pipeline.core.resources import PROCESS_BYTES, Resources
from pipeline.core.specs import digest_of
from pipeline.core.storage import open_store
from pipeline.core.threads import limited
from pipeline.core.types import Artifact, DescriptorFile, Floats, IndexShard, Ints, row_ids
from pipeline.index import Engine
from pipeline.index._engine import engine_for
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.stages.computed import Computed
from pipeline.stages.fetch import readers
from pipeline.stages.kinds import index_spec

_STREAM_ROWS = 1 << 15


@dataclass(frozen=True, kw_only=True)
class FillItem:
    """One index shard to build: its kind, the trained index, and the descriptor files in order."""

    kind: str
    trained: Artifact
    files: tuple[DescriptorFile, ...]


@dataclass(frozen=True, kw_only=True)
class Filled:
    """The index shard, and what it took; None where an earlier run had stored it."""

    shard: IndexShard
    computed: Computed | None = None


@dataclass(frozen=True, kw_only=True)
class FillTask:
    """Work for a runner: from a FillItem to what was filled.

    kinds: that are filled. device: cpu; auto, where distances take most of the time of a fill; or cuda, which is an
    error where there is none. memory: see fill_memory.
    """

    root: str
    recipe: Recipe
    kinds: tuple[str, ...] = ()
    device: str = "cpu"
    memory: int = PROCESS_BYTES

    @property
    def resources(self) -> Resources:
        """The largest index shard, and the process; a GPU unless it computes on the CPU anyway."""
        return Resources(gpu=self.device != "cpu", memory=self.memory)

    def open(self, threads: int) -> Callable[[FillItem], Filled]:
        """Find the device; UserError when it is not there, or not what a kind needs."""
        engine = engine_for(self.device)
        for kind in self.kinds:
            index_spec(self.recipe, kind).expect_engine(engine)
        return limited(partial(self.fill, engine), threads)

    def fill(self, engine: Engine, item: FillItem) -> Filled:
        """Build and store; return what an earlier run stored when the same went in."""
        catalog = Catalog(open_store(self.root))
        spec = index_spec(self.recipe, item.kind)
        index_id = self.recipe.index_id(spec)
        record = catalog.index_record_name(index_id, self._key(item))
        done = catalog.record(record, IndexShard)
        if done is not None:
            return Filled(shard=done)
        with staging.folder() as name:
            folder = Path(name)
            path = folder / f"filled{spec.suffix}"
            trained = catalog.fetch(item.trained, folder)
            started = time.perf_counter()
            rows = spec.fill(trained, _vectors(catalog, item.files), path, engine=engine)
            computed = Computed(
                phase="fill",
                kind=item.kind,
                device=engine.device,
                rows=rows,
                multiply_adds=rows * spec.filling_work(len(spec.list_sizes(path)), item.files[0].dim),
                seconds=time.perf_counter() - started,
            )
            shard = IndexShard(
                kind=item.kind,
                fingerprint=index_id,
                trained=item.trained,
                artifact=catalog.upload_index(path, index_id, spec.suffix),
                rows=rows,
                files=tuple(file.id for file in item.files),
            )
        return Filled(shard=catalog.complete(record, shard), computed=computed)

    @staticmethod
    def _key(item: FillItem) -> str:
        return digest_of({"fill": item.kind, "trained": item.trained.sha256, "files": [f.id for f in item.files]})


def _vectors(catalog: Catalog, files: Sequence[DescriptorFile]) -> Iterator[tuple[Ints, Floats]]:
    """Yield ids and vectors, a bounded number of rows at a time."""
    for position, reader in enumerate(readers(catalog, files)):
        for vectors, images in reader.numbered(_STREAM_ROWS):
            yield images + row_ids(position, 1), vectors


def unheld(lists: Lists, kind: str) -> Ints:
    """Return the places (n,) in the descriptor table of files with rows that no index shard of a kind holds."""
    ids = lists.descriptors["id"]
    held = lists.indexes.filter(pc.equal(lists.indexes["kind"], kind))["files"].combine_chunks().flatten()
    wanted = pc.and_(pc.greater(lists.descriptors["rows"], 0), pc.invert(manifests.among(ids, held)))
    return np.flatnonzero(wanted.to_numpy())


def lacking(lists: Lists, recipe: Recipe) -> bool:
    """Tell whether an index kind of the recipe lacks descriptor files, as after a repair."""
    return any(len(unheld(lists, spec.kind)) > 0 for spec in recipe.indexes)


def groups(descriptors: pa.Table, places: Ints, max_rows: int) -> list[Ints]:
    """Cut places of a descriptor table into runs of at most `max_rows` rows; a larger file is one by itself."""
    cuts, held = [0], 0
    for place, rows in enumerate(descriptors["rows"].to_numpy()[places].tolist()):
        if place > cuts[-1] and held + rows > max_rows:
            cuts.append(place)
            held = 0
        held += rows
    return [places[start:end] for start, end in pairwise([*cuts, len(places)]) if end > start]


def fill_memory(recipe: Recipe, descriptors: pa.Table, wanted: Mapping[str, Sequence[Ints]]) -> int:
    """Return the bytes of memory, about, that the largest of the index shards to be filled takes in a worker.

    wanted: for each kind the groups of places in the table `descriptors`.
    """
    counts = descriptors["rows"].to_numpy()
    rows, dim = max(1, int(counts.sum())), int(descriptors["dim"][0].as_py())
    largest = 0
    for kind, runs in wanted.items():
        spec = index_spec(recipe, kind).resolve(rows=rows, dim=dim)
        largest = max([largest, *(spec.fill_bytes(int(counts[places].sum()), dim) for places in runs)])
    return PROCESS_BYTES + largest
