"""Every index kind over 100,000 vectors of real statistics: bytes per image, recall, and recall per byte.

The vectors are GeM descriptors of photographs, each cropped, mirrored, turned and relit at random about a hundred
times, PCA-whitened to 128 dimensions. Queries are other such views. `python -m tests.benchmarks.indexes`, with
SIGHTLINE_REAL_DATA naming the photographs, prints one JSON object: per kind its bytes per vector, recall@10 by its own
scores and with 100 re-ranked exactly, both per byte, and milliseconds per query.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance

from jobs.weights import named_weights
from pipeline.core.local import LocalStore
from pipeline.core.specs import spec_from_json
from pipeline.core.types import Floats
from pipeline.decode import Decoded
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.index import IndexSpec
from pipeline.publish.catalog import Catalog
from pipeline.whiten import Moments, fit_pca
from tests.benchmarks.museum import FILES

COUNT, QUERIES, DIM, SIDE, DEPTH = 100_000, 1000, 128, 96, 100
KINDS: dict[str, dict[str, Any]] = {
    "flat": {"kind": "flat"},
    "hnsw": {"kind": "hnsw"},
    "kdtree": {"kind": "kdtree"},
    "ivfpq": {"kind": "ivfpq"},
    "ivfpq, 16 bytes": {"kind": "ivfpq", "m": 16},
    "ivfpq, 4-bit fast scan": {"kind": "ivfpq", "fast_scan": True},
    "lsh, 256 random bits": {"kind": "lsh", "nbits": 256},
    "lsh, 128 random bits": {"kind": "lsh", "nbits": 128},
    "lsh, 128 sampled bits": {"kind": "lsh", "rotation": "sample"},
    "lsh, 128 bits by itq": {"kind": "lsh", "rotation": "itq"},
    "binary, signs, flat": {"kind": "binary"},
    "binary, itq, flat": {"kind": "binary", "code": "itq"},
    "binary, itq, ivf": {"kind": "binary", "code": "itq", "storage": "ivf"},
    "binary, itq, hash": {"kind": "binary", "code": "itq", "storage": "hash"},
    "binary, itq, hnsw": {"kind": "binary", "code": "itq", "storage": "hnsw"},
}


def view(path: Path, seed: int) -> Decoded:
    """Return one random view of a photograph, SIDE x SIDE."""
    random = np.random.default_rng(seed)
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image = image.rotate(float(random.uniform(-15, 15)), Image.Resampling.BILINEAR)
    share = random.uniform(0.5, 0.95)
    width, height = max(8, int(share * image.width)), max(8, int(share * image.height))
    left, top = (int(random.integers(0, room + 1)) for room in (image.width - width, image.height - height))
    box = (left, top, left + width, top + height)
    image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = ImageEnhance.Brightness(image).enhance(float(random.uniform(0.6, 1.4)))
    return Decoded(pixels=np.asarray(image), width=SIDE, height=SIDE)


def described(data: Path, count: int) -> Floats:
    """Return whitened descriptors (count, DIM) of random views."""
    paths = [*sorted((data / "museum" / "BBDD").glob("*.jpg")), *sorted((data / "grocery").rglob("*.jpg"))]
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(folder)
        named = named_weights("squeezenet1_0", str(data / "weights" / FILES["squeezenet1_0"]))
        weights = Catalog(store).put_artifact(named.to_bytes(), "model.safetensors")
        extractor = PooledSpec(backbone="squeezenet1_0", weights=weights).build(store, torch.device("cpu"))
    starts = range(0, count, 64)

    def batch(start: int) -> Floats:
        numbers = range(start, min(start + 64, count))
        return extractor.extract([view(paths[n % len(paths)], n) for n in numbers]).vectors

    torch.set_num_threads(1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        raw = np.concatenate(list(pool.map(batch, starts)))
    return fit_pca(Moments.of(raw[: min(count, 20_000)]), dims=DIM).apply(raw)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the mean share of the ten nearest among the first ten found."""
    return float(np.mean([len(set(a[:10]) & set(b[:10])) / 10 for a, b in zip(found, exact, strict=True)]))


def measured(spec: IndexSpec, x: Floats, queries: Floats, exact: np.ndarray, folder: Path) -> dict[str, float]:
    """Build, store, open, search."""
    resolved = spec.resolve(rows=len(x), dim=DIM)
    wanted = resolved.sample_rows(len(x))
    sample = x[np.random.default_rng(0).permutation(len(x))[:wanted]]
    started = time.perf_counter()
    resolved.train(sample, dim=DIM, seed=0, path=folder / "trained")
    rows = resolved.fill(folder / "trained", [(0, x)], folder / "filled")
    built = time.perf_counter() - started
    searcher = resolved.load(folder / "filled", rows=rows, dim=DIM)
    nobody = np.zeros(0, np.int64)
    searcher.search(queries[:8], DEPTH, exclude=nobody)
    started = time.perf_counter()
    _, ids = searcher.search(queries, DEPTH, exclude=nobody)
    took = time.perf_counter() - started
    scores = np.einsum("qd,qkd->qk", queries, x[np.maximum(ids, 0)])
    best = np.argsort(-np.where(ids < 0, -np.inf, scores), axis=1, kind="stable")
    own, again = recall(ids, exact), recall(np.take_along_axis(ids, best, axis=1), exact)
    size = (folder / "filled").stat().st_size / rows
    return {
        "bytes": round(size, 1),
        "recall@10": round(own, 4),
        "recall@10, 100 re-ranked": round(again, 4),
        "recall@10 per byte": round(own / size, 5),
        "re-ranked per byte": round(again / size, 5),
        "ms per query": round(1000 * took / len(queries), 3),
        "build seconds": round(built, 1),
    }


def main(names: list[str]) -> None:
    """Measure the kinds that are named, or all."""
    data = Path(os.environ["SIGHTLINE_REAL_DATA"])
    vectors = described(data, COUNT + QUERIES)
    print("described", file=sys.stderr, flush=True)
    torch.set_num_threads(os.cpu_count() or 1)
    x, queries = vectors[:COUNT], vectors[COUNT:]
    exact = np.argsort(-(queries @ x.T), axis=1, kind="stable")[:, :10]
    told: dict[str, Any] = {}
    for name, settings in KINDS.items():
        if not names or name in names:
            spec = spec_from_json("pipeline.index", settings)
            assert isinstance(spec, IndexSpec)
            with tempfile.TemporaryDirectory() as folder:
                told[name] = measured(spec, x, queries, exact, Path(folder))
            print(name, told[name], file=sys.stderr, flush=True)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
