"""What `sightline sweep` finds over one million vectors: recall@10 of 0.95 at 64 bytes per vector or less.

The vectors are those of million.py: 128 dimensions, 5,000 clusters of some 200, half of a length its own. Noise
without clusters would have no neighbours to find. Latency is that of whole queries, vectors read for re-ranking and
names of the results included. `python -m tests.benchmarks.sweep [ROWS]` prints one JSON object, one entry per setting,
the recipe's and the one that was found first.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from jobs.progress import Reporter
from jobs.sweep import SweepOptions, sweep
from tests.benchmarks import million


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
    million.main(rows, root, search=False)
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
