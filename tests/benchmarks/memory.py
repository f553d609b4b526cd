"""Peak memory of extraction by the size of the collection and of its shards, each run in a process of its own.

Run it by `python -m tests.benchmarks.memory [IMAGES]`; it prints one JSON object: gigabytes, and their ratios.
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from jobs.index import IndexOptions, run_index
from jobs.progress import Reporter
from tests.builders import QUICK, jpeg, tar_bytes


def collection(folder: Path, images: int, per_shard: int) -> Path:
    """Small JPEGs in tars."""
    pictures = [jpeg(seed) for seed in range(50)]
    folder.mkdir()
    for start in range(0, images, per_shard):
        members = {f"{n:07d}.jpg": pictures[n % 50] for n in range(start, min(images, start + per_shard))}
        (folder / f"{start:07d}.tar").write_bytes(tar_bytes(members))
    return folder


def one(source: str, root: str) -> float:
    """Index in this process; return its peak in gigabytes."""
    run_index(IndexOptions(source=source, root=root, recipe=QUICK), Reporter(io.StringIO()))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def peak(folder: Path, images: int, per_shard: int) -> float:
    """Index a new collection in a new process; return that one's peak."""
    source = collection(folder / f"src-{images}-{per_shard}", images, per_shard)
    root = folder / f"root-{images}-{per_shard}"
    command = [sys.executable, "-m", __spec__.name, "--one", str(source), str(root)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(images: int) -> dict[str, float]:
    """Run and return the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = peak(folder, images // 100, 500), peak(folder, images, 500)
        large = peak(folder, images // 10, images // 20)
    return {
        f"GB, {images // 100} images": few,
        f"GB, {images} images": many,
        f"GB, shards of {images // 20} images": large,
        "many / few images": many / few,
        "large / small shards": large / few,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(one(sys.argv[2], sys.argv[3]))
    else:
        result = main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
        print(json.dumps({key: round(value, 4) for key, value in result.items()}))
