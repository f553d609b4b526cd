"""How well the Ray runner keeps workers busy: efficiency with work of fixed length, and empty shards per second.

The work sleeps, so the cores of this machine do not limit it; one item in ten takes three times as long. Run it by
`python -m tests.benchmarks.ray_scaling [EMPTY SHARDS]`; it prints one JSON object.
"""

from __future__ import annotations

import heapq
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import ray

from pipeline.core.resources import Resources
from pipeline.run.ray import RayOptions, RayRunner

SECONDS, ITEMS_PER_WORKER, MOST = 0.25, 40, 16


@dataclass(frozen=True)
class Sleep:
    """Sleeps for the item's seconds."""

    resources = Resources()

    def open(self, threads: int) -> Callable[[float], float]:
        return self.run

    def run(self, seconds: float) -> float:
        if seconds:
            time.sleep(seconds)
        return seconds


def ideal(items: list[float], workers: int) -> float:
    """Seconds that the same list takes when handed out in order without any cost."""
    free = [0.0] * workers
    for seconds in items:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free)


def warm(runner: RayRunner, workers: int) -> None:
    """Return when all workers have started: a process takes seconds of a core, of which there are few here."""
    seconds = 0.5
    while len(runner._idle) < workers:
        list(runner.map(Sleep(), [seconds] * workers))
        seconds *= 2


def efficiency(workers: int) -> float:
    """Ideal time over time taken, after the workers have started."""
    items = [SECONDS * (3 if number % 10 == 0 else 1) for number in range(ITEMS_PER_WORKER * workers)]
    runner = RayRunner(RayOptions(workers=workers))
    warm(runner, workers)
    started = time.perf_counter()
    count = sum(1 for _ in runner.map(Sleep(), items))
    took = time.perf_counter() - started
    runner.close()
    assert count == len(items)
    return ideal(items, workers) / took


def empty_shards(count: int) -> tuple[float, float]:
    """Items per second of work that is nothing, with two workers; and the driver's peak memory in GB."""
    runner = RayRunner(RayOptions(workers=2))
    list(runner.map(Sleep(), [0.1, 0.1]))
    started = time.perf_counter()
    done = sum(1 for _ in runner.map(Sleep(), (0.0 for _ in range(count))))
    took = time.perf_counter() - started
    runner.close()
    return done / took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(count: int) -> dict[str, float]:
    """Run and return the figures."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=MOST, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    figures: dict[str, float] = {}
    for workers in (1, 2, 4, 8, MOST):
        figures[f"efficiency, {workers} workers"] = efficiency(workers)
    figures["empty shards per second"], figures["driver GB"] = empty_shards(count)
    ray.shutdown()
    return figures


if __name__ == "__main__":
    result = main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    print(json.dumps({key: round(value, 4) for key, value in result.items()}))
