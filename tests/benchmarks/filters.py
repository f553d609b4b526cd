"""Queries with conditions over one million synthetic vectors: selective (0.1 %), 2 % and broad (50 %), by index kind.

The first query of a condition reads the columns that it names, later ones know what it takes. Both are whole queries of
one image: candidates, exact scores, names and metadata. Recall is that of the ten best among what matches.
`python -m tests.benchmarks.filters [ROWS]` prints one JSON object, one entry per index kind and condition.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from jobs.build_indexes import BuildOptions, build_indexes
from jobs.progress import Reporter
from jobs.weights import named_weights
from pipeline.core.local import LocalStore
from pipeline.core.types import DescriptorBatch, DescriptorFile, Floats
from pipeline.evaluate.ann_recall import ann_recall
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.index.flat import Spec as FlatSpec
from pipeline.index.ivfpq import Spec as IvfPqSpec
from pipeline.index.lsh import Spec as LshSpec
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Summary
from pipeline.run.inline import InlineRunner
from pipeline.search.engine import Hit, SearchIndex, SearchOptions
from pipeline.sources.tar import Spec as TarSpec
from pipeline.stages.commit import Proposal, transact
from pipeline.table import ImageRow, write_descriptors
from tests.benchmarks.million import CLUSTERS, DIM, PER_FILE, vectors

QUERIES = 50
CONDITIONS = {
    "0.1 %": "number = 7",
    "2 %": "number < 20",
    "50 %": "license in ('cc0', 'by') and year > 1900 and number < 500",
}
LICENSES = ("cc0", "by")


def write_tables(catalog: Catalog, recipe: Recipe, rows: int, centres: Floats) -> list[DescriptorFile]:
    """Write descriptor files with metadata: `number` is drawn from 0..999; return their records."""
    files = []
    for place in range(rows // PER_FILE):
        drawn = np.random.default_rng([2, place]).integers(0, 1000, PER_FILE).tolist()
        images = [
            ImageRow(
                key=f"{place:04d}/{i:06d}.jpg",
                uri=f"u/{i}",
                width=1,
                height=1,
                sha256="0",
                metadata={"license": LICENSES[number % 2], "number": number, "year": 1901 + number % 120},
            )
            for i, number in enumerate(drawn)
        ]
        batch = DescriptorBatch.of_images(vectors(place, PER_FILE, centres))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "d.parquet"
            kinds = TarSpec.model_validate(recipe.source.model_dump()).kinds
            write_descriptors(path, images, batch, dtype="float16", recipe=recipe.descriptor_id, metadata=kinds)
            artifact = catalog.upload(path, catalog.descriptor_name(recipe.descriptor_id, f"{place:04d}", "bench"))
        counts = {"rows": PER_FILE, "indexed": PER_FILE, "rejected": 0, "duplicates": 0}
        files.append(
            DescriptorFile(
                shard_id=f"{place:04d}", writer="bench", artifact=artifact, dim=DIM, dtype="float16", **counts
            )
        )
    return files


def publish(rows: int, root: Path, centres: Floats) -> None:
    """Publish a snapshot of three index kinds."""
    catalog = Catalog(LocalStore(str(root)))
    weights = catalog.put_artifact(named_weights("squeezenet1_1", "random:0").to_bytes(), "model.safetensors")
    recipe = Recipe(
        source=TarSpec(metadata={"license": "string", "number": "int64", "year": "int64"}),
        extractor=PooledSpec(backbone="squeezenet1_1", weights=weights, origin="random:0"),
        indexes=(FlatSpec(), IvfPqSpec(), LshSpec()),
    )
    lists = Lists(descriptors=manifests.descriptor_table(write_tables(catalog, recipe, rows, centres)))
    options = BuildOptions(root=str(root), rows_per_index_shard=500_000)
    shards = build_indexes(options, recipe, lists, InlineRunner(), Reporter())
    proposal = Proposal(
        lists=replace(lists, indexes=shards), recipe=recipe, source="synthetic", summary=Summary(images=rows)
    )
    transact(catalog, None, lambda _: proposal, writer="bench")


def timed(index: SearchIndex, queries: Floats, options: SearchOptions) -> tuple[list[float], list[list[Hit]]]:
    """Return the milliseconds of single queries, and what they found."""
    took, found = [], []
    for query in queries:
        started = time.perf_counter()
        found += index.search(query[None], options)
        took.append(1000 * (time.perf_counter() - started))
    return took, found


def measured(root: Path, kind: str, where: str, queries: Floats) -> tuple[dict[str, float], list[list[Hit]]]:
    """Return the figures of one kind and condition, from a snapshot opened anew with its index loaded."""
    with SearchIndex.open(str(root)) as index:
        index.warm([kind])
        options = SearchOptions(index=kind, where=where)
        took, found = timed(index, queries, options)
        return {"first, ms": round(took[0], 1), "later, ms": round(median(took[1:]), 2)}, found


def main(rows: int, root: Path) -> dict[str, dict[str, float]]:
    """Build, ask, and return the figures by kind and condition."""
    centres = np.random.default_rng(0).normal(size=(CLUSTERS, DIM)).astype(np.float32) / np.sqrt(DIM)
    publish(rows, root, centres)
    queries = vectors(10**6, QUERIES, centres)
    figures: dict[str, dict[str, float]] = {}
    truth: dict[str, Sequence[Sequence[str]]] = {}
    for kind in ("flat", "ivfpq", "lsh"):
        for name, where in {"all": "", **CONDITIONS}.items():
            told, found = measured(root, kind, where, queries)
            keys = [[hit.key for hit in hits] for hits in found]
            exact = truth.setdefault(name, keys)
            figures[f"{kind}, {name}"] = {**told, "recall@10": round(ann_recall(keys, exact, 10), 4)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {**figures, "peak": {"GB": round(peak, 2)}}


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(main(count, Path(temporary)), indent=1))
