"""What `sightline sweep` finds over one million vectors: recall@10 of 0.95 at 64 bytes per vector or less.

The vectors have the statistics of descriptors of photographs, as far as an index sees them: 128 dimensions with
variances that fall as 1/i, which makes some 18 effective ones, in 5,000 clusters that overlap. (Noise that is alike in
all directions has no neighbours to find; clusters that lie far apart, as in million.py, need one list each.) Latency is
that of whole queries: vectors read for re-ranking and names of the results included.
`python -m tests.benchmarks.sweep [ROWS] [PLOT]` prints one JSON object, an entry per setting that was timed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jobs.progress import Reporter
from jobs.sweep import SweepOptions, sweep
from pipeline.core.types import Floats
from tests.benchmarks import million

WITHIN = 0.6
"""Length of what a vector has of its own, its cluster's centre being of length 0.8."""
SCALE = np.sqrt(1 / np.arange(1, million.DIM + 1) / np.sum(1 / np.arange(1, million.DIM + 1)))


def vectors(number: int, rows: int, centres: Floats) -> Floats:
    """Return one file's vectors (rows, DIM), of length one; centres (c, DIM) are alike in all directions."""
    generator = np.random.default_rng([2, number])
    between = np.sqrt(million.DIM) * centres[generator.integers(len(centres), size=rows)]
    x = SCALE * (np.sqrt(1 - WITHIN**2) * between + WITHIN * generator.normal(size=(rows, million.DIM)))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


def told(point: dict[str, Any], k: int) -> dict[str, float]:
    """The figures of a setting."""
    return {
        f"recall@{k}": round(point["recall"], 4),
        "p50, ms": round(point["p50_ms"], 2),
        "p99, ms": round(point["p99_ms"], 2),
        "queries/s": round(point["queries_per_second"], 1),
        "bytes per vector": point["bytes"],
    }


def main(rows: int, root: Path, plot: str = "") -> dict[str, dict[str, float]]:
    """Build, sweep, and return the figures by setting."""
    million.main(rows, root, search=False, draw=vectors)
    data = sweep(SweepOptions(root=str(root), index="ivfpq", plot=plot), Reporter())
    marked = {"the recipe's": data["usual"], "found": data["found"]}
    figures = {f"{name}: {_named(point)}": told(point, data["k"]) for name, point in marked.items() if point}
    for line in data["limits"]:
        print(line, file=sys.stderr)
    rest = [point for point in data["points"] if point not in marked.values()]
    return figures | {_named(point): told(point, data["k"]) for point in rest}


def _named(point: dict[str, Any]) -> str:
    return f"nprobe {point['effort']}, {point['rerank']} re-ranked"


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(main(count, Path(temporary), *sys.argv[2:3]), indent=1))
