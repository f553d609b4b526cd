"""Building an ivfpq index from descriptor files, against plain faiss calls on the same matrix and threads.

Run it by `python -m tests.benchmarks.faiss_ratio [ROWS]`; it prints one JSON object. In turn, medians of three.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np

from jobs.build_indexes import BuildOptions, build_indexes
from jobs.progress import Reporter
from jobs.weights import named_weights
from pipeline.core.local import LocalStore
from pipeline.core.types import Floats
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.index._engine import OPQ_ROWS
from pipeline.index.ivfpq import Spec
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.run.inline import InlineRunner
from pipeline.sources.folder import Spec as FolderSpec
from tests.benchmarks.million import CLUSTERS, DIM, PER_FILE, vectors, write_tables

ROUNDS = 3


def ours(catalog: Catalog, recipe: Recipe, lists: Lists) -> float:
    """Seconds of train and fill, index shards stored; nothing is taken up from an earlier round."""
    for record in list(catalog.store.list("indexes")) + list(catalog.store.list("artifacts")):
        if record.path.endswith(".json"):
            catalog.store.delete(record.path)
    reporter = Reporter(io.StringIO())
    build_indexes(BuildOptions(root=catalog.store.url), recipe, lists, InlineRunner(), reporter)
    return reporter.seconds["train"] + reporter.seconds["fill"]


def plain(x: Floats, folder: Path) -> float:
    """Seconds of the same training and filling as a script has it, the index written to a file."""
    spec = Spec().resolve(rows=len(x), dim=DIM)
    assert spec.nlist is not None
    assert spec.m is not None
    started = time.perf_counter()
    sample = x[np.sort(np.random.default_rng(0).choice(len(x), spec.sample_rows(len(x)), replace=False))]
    ivf = faiss.IndexIVFPQ(faiss.IndexFlatIP(DIM), DIM, spec.nlist, spec.m, spec.nbits, faiss.METRIC_INNER_PRODUCT)
    rotation = faiss.OPQMatrix(DIM, spec.m)
    rotation.niter = 20
    rotation.train(sample[:OPQ_ROWS])
    index: Any = faiss.IndexPreTransform(rotation, ivf)
    index.train(sample)
    for start in range(0, len(x), PER_FILE):
        index.add(x[start : start + PER_FILE])
    faiss.write_index(index, str(folder / "plain.faiss"))
    return time.perf_counter() - started


def main(rows: int) -> dict[str, float]:
    """Run and return the figures."""
    centres = np.random.default_rng(0).normal(size=(CLUSTERS, DIM)).astype(np.float32) / np.sqrt(DIM)
    with tempfile.TemporaryDirectory() as name:
        catalog = Catalog(LocalStore(f"{name}/root"))
        weights = catalog.put_artifact(named_weights("squeezenet1_1", "random:0").to_bytes(), "model.safetensors")
        extractor = PooledSpec(backbone="squeezenet1_1", weights=weights, origin="random:0")
        recipe = Recipe(source=FolderSpec(), extractor=extractor, indexes=(Spec(),))
        files = write_tables(catalog, recipe, rows, centres, vectors)
        lists = Lists(descriptors=manifests.descriptor_table(files))
        x = np.concatenate([vectors(number, PER_FILE, centres) for number in range(rows // PER_FILE)])
        mine, theirs = [], []
        for _ in range(ROUNDS):
            theirs.append(plain(x, Path(name)))
            mine.append(ours(catalog, recipe, lists))
    return {
        "rows": rows,
        "faiss seconds": median(theirs),
        "ours seconds": median(mine),
        "ours / faiss": median(mine) / median(theirs),
    }


if __name__ == "__main__":
    result = main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    print(json.dumps({key: round(value, 4) for key, value in result.items()}))
