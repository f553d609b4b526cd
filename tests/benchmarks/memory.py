"""Peak memory of an extract worker by the size of the collection and of its shards, each run in a process of its own.

Run it by `python -m tests.benchmarks.memory [IMAGES]`; it prints one JSON object: gigabytes, and their ratios. Vectors:
one .npy file of ten times as many rows of 128 dimensions.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from jobs.weights import named_weights
from pipeline.core.local import LocalStore
from pipeline.core.types import Entry, Shard
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.extract.precomputed import Spec as PrecomputedSpec
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.run.inline import InlineRunner
from pipeline.sources.npy import Spec as NpySpec
from pipeline.sources.tar import Spec as TarSpec
from pipeline.stages.extract import ExtractTask
from tests.builders import jpeg, tar_bytes

DIM = 128


def collection(folder: Path, images: int, per_shard: int) -> Path:
    """Small JPEGs in tars."""
    pictures = [jpeg(seed) for seed in range(50)]
    folder.mkdir()
    for start in range(0, images, per_shard):
        members = {f"{n:07d}.jpg": pictures[n % 50] for n in range(start, min(images, start + per_shard))}
        (folder / f"{start:07d}.tar").write_bytes(tar_bytes(members))
    return folder


def matrix(folder: Path, rows: int) -> Path:
    """Vectors in one file."""
    folder.mkdir()
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(rows, DIM)).astype(np.float32))
    return folder


def recipe(source: Path, root: Path) -> Recipe:
    """A recipe for what is in a folder."""
    if (source / "x.npy").exists():
        return Recipe(source=NpySpec(), extractor=PrecomputedSpec(dim=DIM))
    store = LocalStore(str(root))
    weights = Catalog(store).put_artifact(named_weights("squeezenet1_1", "random:0").to_bytes(), "model.safetensors")
    spec = PooledSpec(backbone="squeezenet1_1", weights=weights, resize="longest:64")
    return Recipe(source=TarSpec(), extractor=spec)


def one(source: Path, root: Path) -> float:
    """Extract all shards in this process, as a worker does; return its peak in gigabytes."""
    task = ExtractTask(root=str(root), location=str(source), recipe=recipe(source, root))
    for outcome in InlineRunner().map(task, map(shard, sorted(source.iterdir()))):
        assert outcome.value is not None, outcome.error
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def shard(path: Path) -> Shard:
    """A tar as a plan would have it."""
    size = path.stat().st_size
    entry = Entry(path=path.name, size=size, etag="1")
    return Shard(id=path.stem, uri=path.name, bytes=size, etag="1", entries=(entry,))


def peak(folder: Path, images: int, per_shard: int) -> float:
    """Extract a new collection in a new process; return that one's peak."""
    return extracted(collection(folder / f"src-{images}-{per_shard}", images, per_shard))


def extracted(source: Path) -> float:
    """Extract a collection in a new process; return that one's peak."""
    root = source.with_name(f"root-{source.name}")
    command = [sys.executable, "-m", __spec__.name, "--one", str(source), str(root)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(images: int) -> dict[str, float]:
    """Run and return the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = peak(folder, images // 100, 500), peak(folder, images, 500)
        large = peak(folder, images // 10, images // 20)
        vectors = [extracted(matrix(folder / f"v{rows}", rows)) for rows in (1000, 10 * images)]
    return {
        "GB, 1000 vectors": vectors[0],
        f"GB, {10 * images} vectors": vectors[1],
        "bytes per vector": (vectors[1] - vectors[0]) * 1e9 / (10 * images),
        f"GB, {images // 100} images": few,
        f"GB, {images} images": many,
        f"GB, shards of {images // 20} images": large,
        "many / few images": many / few,
        "large / small shards": large / few,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(one(Path(sys.argv[2]), Path(sys.argv[3])))
    else:
        result = main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
        print(json.dumps({key: round(value, 4) for key, value in result.items()}))
