"""Drift: how well a trained index still fits the collection, against the same measures when it was trained.

Measured on a seeded sample of live vectors, of the same size each time, so the cost does not grow with the collection:
what the kind knows of itself (imbalance, empty lists, quantisation error), and recall@10 of the index filled with the
sample, without re-ranking, against exact search in the sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import staging
from pipeline.core.resources import PROCESS_BYTES, Resources
from pipeline.core.storage import open_store
from pipeline.core.types import Artifact, DescriptorFile, Floats, Ints
from pipeline.index import IndexSpec
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Fitness, Health
from pipeline.stages.kinds import index_spec, index_specs
from pipeline.stages.sample import finite, sample_files, sample_places
from pipeline.table import DescriptorReader

SAMPLE, LEAST, QUERIES, SEED = 16_384, 512, 256, 1
"""Vectors in the sample; fewer live ones than LEAST say nothing. The seed is another one than that of training."""
RECALL_LOSS = 0.02
GROWTH = 4.0
LIMITS = {"imbalance": (1.5, 0.5), "empty_lists": (1.0, 0.25), "quantisation_error": (1.2, 0.0)}
"""Measure -> (factor, addend): past factor * value at training + addend it has drifted."""


@dataclass(frozen=True, kw_only=True)
class DriftItem:
    """One kind to measure: its trained index, the files of the sample, its size, and what is dead in the files."""

    kind: str
    trained: Artifact
    files: tuple[DescriptorFile, ...]
    sample: int
    rows: int
    dead: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class DriftTask:
    """Work for a runner: from a DriftItem to a Health."""

    root: str
    recipe: Recipe

    resources = Resources(memory=PROCESS_BYTES)

    def open(self, threads: int) -> DriftTask:  # noqa: ARG002 - part of the protocol
        """Nothing to load."""
        return self

    def __call__(self, item: DriftItem) -> Health:
        """Read the sample and measure."""
        catalog = Catalog(open_store(self.root))
        x = live_sample(catalog, item)
        if len(x) < LEAST:
            return Health(trained=item.trained.sha256, rows=item.rows, values={})
        spec = index_spec(self.recipe, item.kind)
        with staging.folder() as name:
            trained = catalog.fetch(item.trained, Path(name))
            values = {**spec.health(trained, x), "recall@10": _recall(spec, trained, x, Path(name))}
        return Health(trained=item.trained.sha256, rows=item.rows, values={k: round(v, 6) for k, v in values.items()})


def drift_items(recipe: Recipe, lists: Lists, before: tuple[Fitness, ...]) -> Iterator[DriftItem]:
    """Yield what to measure: every trained kind, on as many vectors as when it was trained."""
    full = lists.descriptors
    dead = manifests.tombstones(lists.tombstones)
    trained = {shard.kind: shard.trained for shard in manifests.index_shards(lists.indexes)}
    rows = manifests.total(full, "rows") - sum(len(dead[name]) for name in _among(list(dead), full["id"]))
    baseline = {(fit.kind, fit.trained.trained): fit.trained.rows for fit in before}
    for spec in index_specs(recipe):
        if spec.exact or spec.kind not in trained or not manifests.total(full, "rows"):
            continue
        size = min(SAMPLE, rows, baseline.get((spec.kind, trained[spec.kind].sha256), rows))
        files = sample_files(full, size, SEED)
        buried = tuple((f.id, tuple(dead[f.id].tolist())) for f in files if f.id in dead)
        yield DriftItem(kind=spec.kind, trained=trained[spec.kind], files=files, sample=size, rows=rows, dead=buried)


def judged(now: dict[str, Health], before: tuple[Fitness, ...]) -> tuple[Fitness, ...]:
    """Compare with the values at training; a newly trained index is its own yardstick."""
    known = {fit.kind: fit.trained for fit in before}
    found = []
    for kind, health in sorted(now.items()):
        trained = known.get(kind)
        if trained is None or trained.trained != health.trained:
            trained = health
        found.append(Fitness(kind=kind, trained=trained, now=health, drifted=tuple(_drifted(trained, health))))
    return tuple(found)


def _drifted(trained: Health, now: Health) -> Iterator[str]:
    if now.rows >= GROWTH * max(1, trained.rows):
        yield f"{now.rows} vectors where {trained.rows} were there at training"
    for name, value in now.values.items():
        old = trained.values.get(name)
        if old is None:
            continue
        if name == "recall@10":
            if value < old - RECALL_LOSS:
                yield f"recall@10 of the sample {value:.3f}, {old:.3f} at training"
        elif name in LIMITS and value > LIMITS[name][0] * old + LIMITS[name][1]:
            yield f"{name.replace('_', ' ')} {value:.3g}, {old:.3g} at training"


def _among(names: list[str], column: pa.ChunkedArray) -> list[str]:
    array = pa.array(names, pa.string())
    found: list[str] = array.filter(pc.is_in(array, column)).to_pylist()
    return found


def live_sample(catalog: Catalog, item: DriftItem) -> Floats:
    """Return the sample (n, d), at most item.sample rows, in file order."""
    dead = {name: np.array(rows, np.int64) for name, rows in item.dead}
    live = [_live_rows(catalog, file, dead.get(file.id)) for file in item.files]
    picked = sample_places([len(rows) for rows in live], item.sample, SEED)
    parts = [np.zeros((0, item.files[0].dim), np.float32)]
    for file, rows, places in zip(item.files, live, picked, strict=True):
        if len(places):
            with staging.folder() as folder:
                reader = DescriptorReader(catalog.fetch(file.artifact, Path(folder)), file.artifact.uri)
                parts.append(reader.take_vectors(rows[places]))
    return finite(np.concatenate(parts))


def _live_rows(catalog: Catalog, file: DescriptorFile, dead: Ints | None) -> Ints:
    """Return the rows of a file whose images are live."""
    if dead is not None and file.rows != file.indexed:
        with staging.folder() as folder:
            reader = DescriptorReader(catalog.fetch(file.artifact, Path(folder)), file.artifact.uri)
            dead = reader.rows_of(dead)
    return np.setdiff1d(np.arange(file.rows), np.zeros(0, np.int64) if dead is None else dead)


def _recall(spec: IndexSpec, trained: Path, x: Floats, folder: Path) -> float:
    """Return recall@10 of the sample's index for some of its own vectors, themselves left out."""
    path = folder / f"sample{spec.suffix}"
    rows = spec.fill(trained, [(0, x)], path)
    queries = np.random.default_rng(SEED).choice(len(x), size=min(QUERIES, len(x)), replace=False)
    searcher = spec.load(path, rows=rows, dim=x.shape[1])
    _, found = searcher.search(x[queries], 11, exclude=np.zeros(0, np.int64))
    exact = np.argsort(-(x[queries] @ x.T), axis=1, kind="stable")[:, :11]
    shares = []
    for query, mine, best in zip(queries.tolist(), found.tolist(), exact.tolist(), strict=True):
        truth = [row for row in best if row != query][:10]
        shares.append(len({row for row in mine if row != query} & set(truth)) / len(truth))
    return float(np.mean(shares))
