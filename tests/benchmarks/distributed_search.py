"""What it costs to have an index in other processes: queries through Ray actors against the same index in this one.

Run it by `python -m tests.benchmarks.distributed_search [ROWS]`; it prints one JSON object, a line per index kind:
median milliseconds of single queries, asked in turn; queries a second from several threads; gigabytes of each process.
Answers are compared bit by bit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from jobs.opened import open_search
from jobs.runners import RunnerOptions
from pipeline.core.types import Floats
from pipeline.search.engine import SearchIndex, SearchOptions
from tests.benchmarks import million

KINDS = {"ivfpq": 200, "flat": 20}
"""Index kind -> how many queries are timed."""
WORKERS, THREADS = 2, 4


def queries() -> Floats:
    """The queries of the benchmark of a million."""
    centres = np.random.default_rng(0).normal(size=(million.CLUSTERS, million.DIM)).astype(np.float32)
    return million.vectors(10**6, million.QUERIES, centres / np.sqrt(million.DIM))


def gigabytes(pid: int | None = None) -> float:
    """Resident memory of a process."""
    return float(psutil.Process(pid).memory_info().rss) / 1e9


def alone(root: str, kind: str) -> float:
    """Resident gigabytes of a process that holds all of the index, after some queries."""
    with SearchIndex.open(root) as index:
        index.search(queries()[:20], SearchOptions(index=kind))
        return gigabytes()


def seconds(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def compared(root: str, kind: str) -> dict[str, float]:
    """The figures of one kind."""
    asked, options, count = queries(), SearchOptions(index=kind), KINDS[kind]
    called = [sys.executable, "-m", "tests.benchmarks.distributed_search", root, kind]
    whole = float(subprocess.run(called, check=True, stdout=subprocess.PIPE, text=True).stdout)
    opened = time.perf_counter()
    with open_search(root, runner=RunnerOptions(kind="ray", workers=WORKERS), kinds=(kind,)) as shared:
        opened = time.perf_counter() - opened
        shared.search(asked[:20], options)
        driver = gigabytes()
        actors = [gigabytes(pid) for pid in shared._parts._crew.pids()]  # type: ignore[attr-defined]
        with SearchIndex.open(root) as local:
            assert local.search(asked, options) == shared.search(asked, options), "the same bits"
            times: dict[str, list[float]] = {"local": [], "shared": []}
            for number in range(count):
                one = asked[number : number + 1]
                times["local"].append(seconds(lambda: local.search(one, options)))  # noqa: B023 - called at once
                times["shared"].append(seconds(lambda: shared.search(one, options)))  # noqa: B023
            each = {"local": rate(local, asked[:count], options), "shared": rate(shared, asked[:count], options)}
    return {
        "local, ms": 1000 * median(times["local"]),
        f"{WORKERS} actors, ms": 1000 * median(times["shared"]),
        f"local, queries/s by {THREADS} threads": each["local"],
        f"{WORKERS} actors, queries/s by {THREADS} threads": each["shared"],
        "local, GB": whole,
        "driver, GB": driver,
        "each actor, GB": max(actors),
        "opening the actors, s": opened,
    }


def rate(index: SearchIndex, asked: Floats, options: SearchOptions) -> float:
    """Single queries a second from several threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        started = time.perf_counter()
        list(pool.map(lambda number: index.search(asked[number : number + 1], options), range(len(asked))))
        return len(asked) / (time.perf_counter() - started)


def main(rows: int) -> dict[str, dict[str, float]]:
    """Build, and return the figures of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        million.main(rows, Path(folder), search=False)
        return {kind: compared(folder, kind) for kind in KINDS}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(alone(sys.argv[1], sys.argv[2]))
    else:
        result = main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
        print(
            json.dumps({kind: {key: round(value, 3) for key, value in told.items()} for kind, told in result.items()})
        )
