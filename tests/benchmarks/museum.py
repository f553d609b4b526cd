"""Retrieval on real photographs: mAP on the museum queries by descriptor, and recall of the approximate indexes.

Run it by `SIGHTLINE_REAL_DATA=FOLDER python -m tests.benchmarks.museum`; it prints one JSON object.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from itertools import chain
from pathlib import Path

import numpy as np

from jobs.evaluate import EvaluateOptions, evaluate
from jobs.index import IndexOptions, run_index
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from pipeline.core.types import Floats
from pipeline.evaluate.ann_recall import ann_recall
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.table import DescriptorReader

FILES = {
    "mobilenet_v2": "mobilenet_v2_imagenet_fp16.pth",
    "squeezenet1_0": "squeezenet1_0_imagenet_fp16.pth",
}
ROWS: tuple[tuple[str, str, str | None, int | None, str], ...] = (
    ("mobilenet_v2", "gem", None, None, "fp32"),
    ("mobilenet_v2", "gem", None, None, "bf16"),
    ("squeezenet1_0", "gem", None, None, "fp32"),
    ("squeezenet1_0", "gem", None, None, "bf16"),
    ("mobilenet_v2", "rmac", None, None, "fp32"),
    ("squeezenet1_0", "rmac", None, None, "fp32"),
    ("mobilenet_v2", "gem", "pca", None, "fp32"),
    ("mobilenet_v2", "gem", "pca", 128, "fp32"),
    ("squeezenet1_0", "gem", "pca", 128, "fp32"),
    ("mobilenet_v2", "rmac", "pca", 128, "fp32"),
)


def quiet() -> Reporter:
    """A reporter that nobody reads."""
    return Reporter(io.StringIO())


def ground_truth(museum: Path, queries: str, folder: Path) -> Path:
    """Write the museum's lists in the form that evaluate reads."""
    pairs = json.loads((museum / f"{queries}_gt.json").read_text())
    path = folder / f"{queries}.json"
    path.write_text(json.dumps({f"{n:05d}.jpg": [f"bbdd_{found[0]:05d}.jpg"] for n, found in enumerate(pairs)}))
    return path


def recipe(
    data: Path, backbone: str, pooling: str, whiten: str | None, dims: int | None, precision: str = "fp32"
) -> RecipeOptions:
    """The settings of one row of the table."""
    return RecipeOptions(
        backbone=backbone,
        weights=str(data / "weights" / FILES[backbone]),
        pooling=pooling,
        resize="longest:384",
        whiten=whiten or "none",
        dims=dims,
        precision=precision,
        indexes=("flat",),
    )


def scores(data: Path, folder: Path, options: RecipeOptions) -> list[float]:
    """Return the mAP of both query sets."""
    museum = data / "museum"
    root = tempfile.mkdtemp(dir=folder)
    run_index(IndexOptions(source=str(museum / "BBDD"), root=root, recipe=options), quiet())
    found = []
    for queries in ("qsd1_w1", "qsd2_w1"):
        truth = ground_truth(museum, queries, folder)
        ask = EvaluateOptions(root=root, queries=str(museum / queries), ground_truth=str(truth))
        found.append(float(evaluate(ask, quiet())["mAP"]))
    return found


def recall(data: Path, folder: Path) -> dict[str, float]:
    """Recall@10 of the approximate kinds, re-ranking a tenth of museum + grocery, every image asked for."""
    both = folder / "both"
    both.mkdir()
    (both / "museum").symlink_to(data / "museum" / "BBDD")
    (both / "grocery").symlink_to(data / "grocery")
    options = recipe(data, "mobilenet_v2", "gem", None, None)
    with_all = RecipeOptions(**{**vars(options), "indexes": ("flat", "ivfpq", "lsh")})
    root = folder / "recall-root"
    run_index(IndexOptions(source=str(both), root=str(root), recipe=with_all), quiet())
    files = sorted((root / "descriptors").rglob("*.parquet"))
    vectors = np.concatenate([DescriptorReader(path).vectors() for path in files if ".rejects." not in path.name])
    with SearchIndex.open(str(root)) as index:
        exact = keys(index, vectors, "flat", 0)
        depth = index.images // 10
        found = {kind: ann_recall(keys(index, vectors, kind, depth), exact, 10) for kind in ("ivfpq", "lsh")}
    return {f"{kind}, {depth} of {index.images} re-ranked: recall@10": round(value, 4) for kind, value in found.items()}


def keys(index: SearchIndex, vectors: Floats, kind: str, rerank: int) -> list[list[str]]:
    """Return the ten best keys of each vector."""
    options = SearchOptions(k=10, index=kind, rerank=rerank)
    chunks = np.array_split(vectors, 10)
    return [[h.key for h in hits] for hits in chain.from_iterable(index.search(chunk, options) for chunk in chunks)]


if __name__ == "__main__":
    real = Path(os.environ["SIGHTLINE_REAL_DATA"])
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for backbone, pooling, whiten, dims, precision in ROWS:
            one, two = scores(real, Path(temporary), recipe(real, backbone, pooling, whiten, dims, precision))
            whitening = f"{whiten} {dims or 'all'}" if whiten else "none"
            how = f"{backbone} {pooling}, whitening {whitening}, {precision}"
            figures |= {f"{how}: mAP qsd1": round(one, 4), f"{how}: mAP qsd2": round(two, 4)}
        figures |= recall(real, Path(temporary))
    print(json.dumps(figures, indent=1))
