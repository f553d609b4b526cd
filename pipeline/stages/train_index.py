"""Train the empty index of a kind, once, from a seeded sample over descriptor files; an artifact ever after.

The sample depends on the files and the seed only. A completion record, keyed by what went in, keeps it for reruns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core import staging
from pipeline.core.errors import UserError
from pipeline.core.resources import PROCESS_BYTES, Resources
from pipeline.core.specs import digest_of
from pipeline.core.storage import open_store
from pipeline.core.threads import limited
from pipeline.core.types import Artifact, DescriptorFile, Floats
from pipeline.index import Engine, IndexSpec
from pipeline.index._engine import engine_for
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.stages.computed import Computed
from pipeline.stages.sample import read_sample, sample_bytes, sample_files


@dataclass(frozen=True, kw_only=True)
class TrainItem:
    """One kind to train: its resolved settings, and the files and row counts of its sample."""

    spec: IndexSpec
    files: tuple[DescriptorFile, ...]
    rows: int


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The trained empty index, and what it took; None where an earlier run had stored it."""

    artifact: Artifact
    computed: Computed | None = None


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """Work for a runner: from a TrainItem to what was trained.

    device: cpu; auto, for kinds that are quicker to train on a GPU; or cuda, which is an error where there is none.
    memory: see train_memory.
    """

    root: str
    recipe: Recipe
    device: str = "cpu"
    memory: int = PROCESS_BYTES
    seed: int = 0

    @property
    def resources(self) -> Resources:
        """The largest sample, and the process; a GPU unless it computes on the CPU anyway."""
        return Resources(gpu=self.device != "cpu", memory=self.memory)

    def open(self, threads: int) -> Callable[[TrainItem], Trained]:
        """Find the device; UserError when it is not there."""
        return limited(partial(self.train, engine_for(self.device)), threads)

    def train(self, engine: Engine, item: TrainItem) -> Trained:
        """Train and store; return what an earlier run stored when the same went in."""
        catalog = Catalog(open_store(self.root))
        record = catalog.artifact_record_name(self._key(item))
        done = catalog.record(record, Artifact)
        if done is not None:
            return Trained(artifact=done)
        with staging.folder() as folder:
            dim = item.files[0].dim
            sample = (
                read_sample(catalog, item.files, item.rows, self.seed) if item.rows else np.zeros((0, dim), np.float32)
            )
            sample = finite(sample)
            path = Path(folder) / f"trained{item.spec.suffix}"
            started = time.perf_counter()
            item.spec.train(sample, dim=dim, seed=self.seed, path=path, engine=engine)
            computed = Computed(
                phase="train",
                kind=item.spec.kind,
                device=engine.device,
                rows=len(sample),
                multiply_adds=item.spec.training_work(len(sample), dim),
                seconds=time.perf_counter() - started,
            )
            artifact = catalog.complete(record, catalog.upload_artifact(path, path.name))
        return Trained(artifact=artifact, computed=computed)

    def _key(self, item: TrainItem) -> str:
        sample = [[file.shard_id, file.artifact.sha256] for file in item.files]
        spec = item.spec.to_json()
        what = {"train": self.recipe.descriptor_id, "spec": spec, "rows": item.rows, "seed": self.seed}
        return digest_of({**what, "sample": sample})


def finite(sample: Floats) -> Floats:
    """Return the rows of a sample (n, d) that are finite; UserError when none is.

    Descriptor files of early releases may hold others. They are near nothing, and k-means would end with them.
    """
    there = np.isfinite(sample).all(axis=1)
    if len(sample) and not there.any():
        raise UserError("descriptors", "are not finite, none of the sample", "extract them with other settings")
    return sample if there.all() else sample[there]


TRAIN_BYTES = 4 << 30
"""Budget of a training, unless one is stated."""


def train_item(
    spec: IndexSpec,
    descriptors: pa.Table,
    *,
    memory_bytes: int | None,
    train_bytes: int = TRAIN_BYTES,
    shards: int = 1,
    seed: int = 0,
) -> TrainItem:
    """Choose the settings of a kind from the size of the collection, and the files its sample comes from.

    descriptors: the descriptor files (see publish/manifests.py); they hold at least one row. memory_bytes: of all
    `shards` index shards of a kind, loaded; UserError where they cannot be as small. train_bytes bounds the sample, and
    with it the memory of training, whatever the size of the collection.
    """
    rows = manifests.total(descriptors, "rows")
    dim = descriptors["dim"][0].as_py()
    resolved = spec.resolve(rows=max(1, rows), dim=dim, memory_bytes=memory_bytes)
    if memory_bytes is not None and shards > 1:
        # Each index shard that is loaded has the trained part, which the rows do not share.
        trained = resolved.loaded_bytes(0, dim)
        resolved = spec.resolve(rows=rows, dim=dim, memory_bytes=memory_bytes - (shards - 1) * trained)
    most = max(1, train_bytes // sample_bytes(1, dim))
    wanted = min(rows, resolved.sample_rows(rows), most)
    return TrainItem(spec=resolved, files=sample_files(descriptors, wanted, seed), rows=wanted)


def train_memory(items: Iterable[TrainItem]) -> int:
    """Return the bytes of memory that the largest of some trainings takes in a worker."""
    return PROCESS_BYTES + max((sample_bytes(item.rows, item.files[0].dim) for item in items), default=0)
