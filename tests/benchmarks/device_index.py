"""Training and filling ivfpq by torch on a device, over the same by faiss on the CPU; needs neither Ray nor faiss-gpu.

Run it by `python -m tests.benchmarks.device_index [ROWS] [DEVICE]`; it prints one JSON object: seconds of training and
fill and their ratio, the vectors with other lists or codes, recall@10 of each, and k-means and assignment at the
settings of 10^8 rows (40,000 lists). On a GPU 10^6 rows, some minutes; on the CPU a reduced form.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch

from pipeline.core.types import Floats
from pipeline.index import Engine, _kmeans
from pipeline.index._engine import AT_ONCE, Encoder, TorchEngine
from pipeline.index.ivfpq import Spec
from tests.benchmarks.million import CLUSTERS, DIM, PER_FILE, QUERIES, vectors

LARGE = {"cuda": (2_560_000, 40_000, 200_000), "cpu": (20_000, 1_000, 5_000)}
"""Points and lists of k-means, and vectors to assign, at the settings of 10^8 rows; reduced on the CPU."""


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of work, what the device has under way included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def recall(spec: Spec, path: Path, x: Floats, queries: Floats, exact: Floats) -> float:
    """Return recall@10 of a filled file."""
    found = spec.load(path, rows=len(x), dim=DIM).search(queries, 10, exclude=np.zeros(0, np.int64))[1]
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]))


def built(spec: Spec, x: Floats, engine: TorchEngine, device: torch.device, folder: Path) -> dict[str, float]:
    """Train and fill by both; compare."""
    queries = vectors(10**6, QUERIES, centres())
    flat = faiss.IndexFlatIP(DIM)
    flat.add(x)
    exact = flat.search(queries, 10)[1]
    sample = x[np.random.default_rng(0).permutation(len(x))[: spec.sample_rows(len(x))]]
    figures: dict[str, float] = {"rows": len(x), "lists": spec.nlist or 0}
    figures["multiply-adds of training"] = spec.training_work(len(sample), DIM)
    figures["multiply-adds per vector of a fill"] = spec.filling_work(spec.nlist or 0, DIM)
    ways: dict[str, Engine | None] = {"faiss on the CPU": None, f"torch on {engine.device}": engine}
    spec.train(sample[:256], dim=DIM, seed=0, path=folder / "warm", engine=engine)
    for name, way in ways.items():
        path = folder / name
        train = partial(spec.train, sample, dim=DIM, seed=0, path=path, engine=way)
        figures[f"train, {name}, s"] = seconds(device, train)
        spec.fill(path, [(0, x)], folder / "filled")
        figures[f"recall@10, trained by {name}"] = recall(spec, folder / "filled", x, queries, exact)
    trained = folder / "faiss on the CPU"
    for name, way in ways.items():
        batches = [(start // PER_FILE, x[start : start + PER_FILE]) for start in range(0, len(x), PER_FILE)]
        fill = partial(spec.fill, trained, batches, folder / "filled", engine=way)
        figures[f"fill, {name}, s"] = seconds(device, fill)
    theirs, ours = figures["train, faiss on the CPU, s"], figures[f"train, torch on {engine.device}, s"]
    figures["train: torch / faiss"] = ours / theirs
    theirs, ours = figures["fill, faiss on the CPU, s"], figures[f"fill, torch on {engine.device}, s"]
    figures["fill: torch / faiss"] = ours / theirs
    return figures | differences(trained, x, device)


def differences(trained: Path, x: Floats, device: torch.device) -> dict[str, float]:
    """Count the vectors whose list, or whose code in the same list, is another than faiss's."""
    index = faiss.read_index(str(trained))
    ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
    encoder, size = Encoder.of(index, device, AT_ONCE[device.type]), ivf.coarse_code_size()
    lists = codes = 0
    for start in range(0, len(x), PER_FILE):
        part = x[start : start + PER_FILE]
        rotated = index.chain.at(0).apply(part) if isinstance(index, faiss.IndexPreTransform) else part
        differ = ivf.sa_encode(np.ascontiguousarray(rotated)) != encoder.encode(part)
        other = differ[:, :size].any(axis=1)
        lists += int(other.sum())
        codes += int(differ[~other].any(axis=1).sum())
    return {"vectors in other lists": lists, "vectors with other codes": codes}


def large(engine: TorchEngine, device: torch.device) -> dict[str, float]:
    """Measure k-means and assignment at the settings of 10^8 rows, per step and per vector."""
    points, count, few = LARGE[device.type]
    x = np.concatenate([vectors(n, PER_FILE, centres()) for n in range(-(-points // PER_FILE))])[:points]
    there = torch.from_numpy(x)[None].to(device)
    steps = 2

    def cluster() -> torch.Tensor:
        return _kmeans.kmeans(there, count, steps=steps, seed=0, spherical=True, at_once=AT_ONCE[device.type])

    with _kmeans.strict():
        took = seconds(device, cluster) / steps
        lists = cluster()
        mine = seconds(
            device, lambda: _kmeans.nearest(there[:, :few], lists, spherical=True, at_once=AT_ONCE[device.type]).cpu()
        )
    quantizer = faiss.IndexFlatIP(DIM)
    quantizer.add(lists[0].cpu().numpy())
    some = x[: max(1, few // 10)]
    theirs = seconds(device, lambda: quantizer.search(some, 1)) * few / len(some)
    return {
        f"k-means of {points} points, {count} lists, s a step, torch on {engine.device}": took,
        f"assignment to {count} lists, vectors/s, torch on {engine.device}": few / mine,
        f"assignment to {count} lists, vectors/s, faiss on the CPU": few / theirs,
        "assignment: torch / faiss, time": mine / theirs,
    }


def centres() -> Floats:
    """Return what the vectors lie around."""
    return np.asarray(np.random.default_rng(0).normal(size=(CLUSTERS, DIM)) / np.sqrt(DIM), np.float32)


def main(rows: int, device: torch.device) -> dict[str, float]:
    """Run and return the figures."""
    engine = TorchEngine(device)
    spec = Spec().resolve(rows=rows, dim=DIM)
    x = np.concatenate([vectors(n, PER_FILE, centres()) for n in range(-(-rows // PER_FILE))])[:rows]
    with tempfile.TemporaryDirectory() as folder:
        return built(spec, x, engine, device, Path(folder)) | large(engine, device)


if __name__ == "__main__":
    where = torch.device(sys.argv[2] if len(sys.argv) > 2 else "cuda" if torch.cuda.is_available() else "cpu")
    default = 1_000_000 if where.type == "cuda" else 5_000
    told = main(int(sys.argv[1]) if len(sys.argv) > 1 else default, where)
    print(json.dumps({key: float(f"{value:.6g}") for key, value in told.items()}, indent=1))
