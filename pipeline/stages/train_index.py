"""Train the empty index of a kind, once, from a seeded sample over descriptor files; an artifact ever after.

The sample depends on the files and the seed only. A completion record, keyed by what went in, keeps it for reruns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core import staging
from pipeline.core.specs import digest_of
from pipeline.core.storage import open_store
from pipeline.core.threads import limited
from pipeline.core.types import Artifact, DescriptorFile, Floats, Ints
from pipeline.index import IndexSpec
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.stages.fetch import readers
from pipeline.stages.fit import seeded_order

SPREAD = 2
"""A sample is drawn from files that hold at least this many times its rows: few files, still a mixture."""


@dataclass(frozen=True, kw_only=True)
class TrainItem:
    """One kind to train: its resolved settings, and the files and row counts of its sample."""

    spec: IndexSpec
    files: tuple[DescriptorFile, ...]
    rows: int


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """Work for a runner: from a TrainItem to the Artifact of the trained empty index.

    uses_gpu: whether its kinds train on one.
    """

    root: str
    recipe: Recipe
    uses_gpu: bool = False
    seed: int = 0

    def open(self, threads: int) -> Callable[[TrainItem], Artifact]:
        """Nothing to load."""
        return limited(self, threads)

    def __call__(self, item: TrainItem) -> Artifact:
        """Train and store; return what an earlier run stored when the same went in."""
        catalog = Catalog(open_store(self.root))
        record = catalog.artifact_record_name(self._key(item))
        done = catalog.record(record, Artifact)
        if done is not None:
            return done
        with staging.folder() as folder:
            dim = item.files[0].dim
            sample = (
                read_sample(catalog, item.files, item.rows, self.seed) if item.rows else np.zeros((0, dim), np.float32)
            )
            path = Path(folder) / f"trained{item.spec.suffix}"
            item.spec.train(sample, dim=dim, seed=self.seed, path=path)
            return catalog.complete(record, catalog.upload_artifact(path, path.name))

    def _key(self, item: TrainItem) -> str:
        sample = [[file.shard_id, file.artifact.sha256] for file in item.files]
        spec = item.spec.to_json()
        what = {"train": self.recipe.descriptor_id, "spec": spec, "rows": item.rows, "seed": self.seed}
        return digest_of({**what, "sample": sample})


TRAIN_BYTES = 4 << 30
"""Budget of a training, unless one is stated."""
COPIES = 2
"""The sample in float32, and the same rotated."""


def train_item(
    spec: IndexSpec,
    descriptors: pa.Table,
    *,
    memory_bytes: int | None,
    train_bytes: int = TRAIN_BYTES,
    seed: int = 0,
) -> TrainItem:
    """Choose the settings of a kind from the size of the collection, and the files its sample comes from.

    descriptors: the descriptor files (see publish/manifests.py); they hold at least one row. train_bytes bounds the
    sample, and with it the memory of training, whatever the size of the collection.
    """
    rows = manifests.total(descriptors, "rows")
    dim = descriptors["dim"][0].as_py()
    resolved = spec.resolve(rows=max(1, rows), dim=dim, memory_bytes=memory_bytes)
    most = max(1, train_bytes // (COPIES * np.dtype(np.float32).itemsize * dim))
    wanted = min(rows, resolved.sample_rows(rows), most)
    return TrainItem(spec=resolved, files=sample_files(descriptors, wanted, seed), rows=wanted)


def sample_files(descriptors: pa.Table, wanted: int, seed: int) -> tuple[DescriptorFile, ...]:
    """Return the files to draw `wanted` rows from, by shard id: the first with any, in a seeded order; at least one."""
    shards = descriptors["shard_id"].to_pylist()
    counts = descriptors["rows"].to_pylist()
    order = sorted(
        (place for place, rows in enumerate(counts) if rows), key=lambda place: seeded_order(seed, shards[place])
    )
    chosen, held = [order[0]], counts[order[0]]
    for place in order[1:]:
        if held >= SPREAD * wanted:
            break
        chosen.append(place)
        held += counts[place]
    files = manifests.descriptor_files(descriptors.take(pa.array(chosen)))
    return tuple(sorted(files, key=lambda file: file.shard_id))


def sample_places(counts: Sequence[int], wanted: int, seed: int) -> list[Ints]:
    """Draw at most `wanted` places from all those of some files; return them per file, sorted."""
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    total = int(starts[-1])
    picked = np.sort(np.random.default_rng(seed).choice(total, size=min(wanted, total), replace=False))
    cuts = np.searchsorted(picked, starts)
    return [picked[a:b] - start for a, b, start in zip(cuts[:-1], cuts[1:], starts[:-1], strict=True)]


def read_sample(catalog: Catalog, files: Sequence[DescriptorFile], rows: int, seed: int) -> Floats:
    """Return `rows` vectors (rows, d) drawn without replacement from all rows of the files, in file order."""
    places = sample_places([file.rows for file in files], rows, seed)
    drawn = [(file, mine) for file, mine in zip(files, places, strict=True) if len(mine)]
    parts = []
    for (file, mine), reader in zip(drawn, readers(catalog, [file for file, _ in drawn]), strict=True):
        parts.append(reader.vectors()[mine] if 4 * len(mine) > file.rows else reader.take_vectors(mine))
    return np.concatenate(parts)
