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
from dataclasses import replace
from functools import partial
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
THREADS = 4
NAME = "tests.benchmarks.distributed_search"


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
    """The figures of one kind, each from a process of its own."""
    told: dict[str, float] = {"local, GB": apart(alone, root, kind)}
    for workers in (1, 2):
        told |= apart(against, root, kind, workers)
    return told


def against(root: str, kind: str, workers: int) -> dict[str, float]:
    """The figures of so many actors, and those of one process taken in turn with them."""
    asked, options, count = queries(), SearchOptions(index=kind), KINDS[kind]
    plain, name = replace(options, rerank=0), f"{workers} actor{'s' if workers > 1 else ''}"
    started = time.perf_counter()
    with open_search(root, runner=RunnerOptions(kind="ray", workers=workers), kinds=(kind,)) as shared:
        opened = time.perf_counter() - started
        shared.search(asked[:20], options)
        driver = gigabytes()
        actors = [gigabytes(pid) for pid in shared._parts._crew.pids()]  # type: ignore[attr-defined]
        with SearchIndex.open(root) as local:
            assert local.search(asked, options) == shared.search(asked, options), "the same bits"
            calls: dict[str, tuple[Callable[..., Any], SearchOptions]] = {
                f"local beside {name}, ms": (local.search, options),
                f"local beside {name} without re-ranking, ms": (local.candidates, plain),
                f"{name}, ms": (shared.search, options),
                f"{name} without re-ranking, ms": (shared.candidates, plain),
            }
            times: dict[str, list[float]] = {called: [] for called in calls}
            for number in range(count):
                for called, (call, how) in calls.items():
                    times[called].append(seconds(partial(call, asked[number : number + 1], how)))
            each = {"local": rate(local, asked[:count], options), "shared": rate(shared, asked[:count], options)}
    return {
        **{called: 1000 * median(taken) for called, taken in times.items()},
        f"local beside {name}, queries/s by {THREADS} threads": each["local"],
        f"{name}, queries/s by {THREADS} threads": each["shared"],
        "driver, GB": driver,
        f"each of {name}, GB": max(actors),
        f"opening {name}, s": opened,
    }


def rate(index: SearchIndex, asked: Floats, options: SearchOptions) -> float:
    """Single queries a second from several threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        started = time.perf_counter()
        list(pool.map(lambda number: index.search(asked[number : number + 1], options), range(len(asked))))
        return len(asked) / (time.perf_counter() - started)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of this module in another process."""
    code = f"import json; from {NAME} import *; print(json.dumps({function.__name__}(*{arguments!r})))"
    told = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(told.splitlines()[-1])


def main(rows: int) -> dict[str, dict[str, float]]:
    """Build, and return the figures of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        million.main(rows, Path(folder), search=False)
        return {kind: compared(folder, kind) for kind in KINDS}


if __name__ == "__main__":
    result = main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    print(json.dumps({kind: {key: round(value, 3) for key, value in row.items()} for kind, row in result.items()}))
