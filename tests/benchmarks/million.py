"""One million synthetic vectors through table, train, fill, commit and query: time of each phase and peak memory.

Run it by `python -m tests.benchmarks.million [ROWS] [FOLDER]`; it prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Summary
from pipeline.run.inline import InlineRunner
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.sources.folder import Spec as FolderSpec
from pipeline.stages.commit import Proposal, transact
from pipeline.table import ImageRow, write_descriptors

DIM, PER_FILE, CLUSTERS, QUERIES = 128, 20_000, 5_000, 200


def vectors(number: int, rows: int, centres: Floats) -> Floats:
    """Return one file's vectors (rows, DIM): unit vectors around cluster centres."""
    generator = np.random.default_rng([1, number])
    x = centres[generator.integers(len(centres), size=rows)] + 0.5 * generator.normal(size=(rows, DIM)) / np.sqrt(DIM)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


def write_tables(
    catalog: Catalog, recipe: Recipe, rows: int, centres: Floats, draw: Callable[[int, int, Floats], Floats]
) -> list[DescriptorFile]:
    """Write the descriptor files and return their records."""
    files = []
    for number in range(rows // PER_FILE):
        x = draw(number, PER_FILE, centres)
        names = [
            ImageRow(key=f"{number:04d}/{i:06d}.jpg", uri=f"u/{i}", width=1, height=1, sha256="0")
            for i in range(PER_FILE)
        ]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "d.parquet"
            write_descriptors(path, names, DescriptorBatch.of_images(x), dtype="float16", recipe=recipe.descriptor_id)
            artifact = catalog.upload(path, catalog.descriptor_name(recipe.descriptor_id, f"{number:04d}", "bench"))
        counts = {"rows": PER_FILE, "indexed": PER_FILE, "rejected": 0, "duplicates": 0}
        files.append(
            DescriptorFile(
                shard_id=f"{number:04d}", writer="bench", artifact=artifact, dim=DIM, dtype="float16", **counts
            )
        )
    return files


def main(
    rows: int, root: Path, *, search: bool = True, draw: Callable[[int, int, Floats], Floats] = vectors
) -> dict[str, float]:
    """Run and return the figures; without search only what building takes. draw: see `vectors`."""
    catalog = Catalog(LocalStore(str(root)))
    weights = catalog.put_artifact(named_weights("squeezenet1_1", "random:0").to_bytes(), "model.safetensors")
    recipe = Recipe(
        source=FolderSpec(),
        extractor=PooledSpec(backbone="squeezenet1_1", weights=weights, origin="random:0"),
        indexes=(FlatSpec(), IvfPqSpec()),
    )
    centres = np.random.default_rng(0).normal(size=(CLUSTERS, DIM)).astype(np.float32) / np.sqrt(DIM)
    reporter, started = Reporter(), time.perf_counter()
    files = write_tables(catalog, recipe, rows, centres, draw)
    seconds = {"table": time.perf_counter() - started}
    lists = Lists(descriptors=manifests.descriptor_table(files))
    options = BuildOptions(root=str(root), rows_per_index_shard=500_000)
    shards = build_indexes(options, recipe, lists, InlineRunner(), reporter)
    started = time.perf_counter()
    proposal = Proposal(
        lists=replace(lists, indexes=shards), recipe=recipe, source="synthetic", summary=Summary(images=rows)
    )
    transact(catalog, None, lambda _: proposal, writer="bench")
    seconds |= {**reporter.seconds, "commit": time.perf_counter() - started}
    peak_build = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if not search:
        return {"rows": rows, **seconds, "peak GB, build": peak_build}
    queries = draw(10**6, QUERIES, centres)
    with SearchIndex.open(str(root)) as index:
        started = time.perf_counter()
        index.search(queries[:1], SearchOptions(index="ivfpq"))
        seconds["open and first query"] = time.perf_counter() - started
        started = time.perf_counter()
        found = index.search(queries, SearchOptions(index="ivfpq"))
        seconds["query, ms each"] = 1000 * (time.perf_counter() - started) / QUERIES
        exact = index.search(queries, SearchOptions(index="flat"))
    recall = ann_recall([[h.key for h in hits] for hits in found], [[h.key for h in hits] for hits in exact], 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"rows": rows, **seconds, "recall@10": recall, "peak GB, build": peak_build, "peak GB": peak}


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps({key: round(value, 4) for key, value in main(count, Path(temporary)).items()}))
