"""What a run tells Prometheus, through Ray's own metrics: they appear as ray_sightline_* on each node's export port.

Workers count what they did, the driver says what is left. Nothing is measured here; see pipeline/core/stats.py.
"""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Counter, Gauge

from pipeline.core.types import Outcome

COUNTERS = {
    "images": "images described",
    "bytes": "encoded bytes of the images read",
    "rejected": "images that could not be used",
    "retries": "storage requests tried again",
    "decode_seconds": "time spent decoding, over all threads",
    "forward_seconds": "time spent in the network",
    "write_seconds": "time spent writing descriptor files",
}
"""Statistic of an outcome -> what it counts; exported as ray_sightline_<name>_total."""


class WorkerMetrics:
    """The counters of one worker process."""

    def __init__(self) -> None:
        self._counters = {name: Counter(f"sightline_{name}_total", text) for name, text in COUNTERS.items()}
        self._items = Counter("sightline_items_total", "items of work done", tag_keys=("task", "outcome"))
        self._busy = Counter("sightline_busy_seconds_total", "time that workers were busy", tag_keys=("task",))
        self._rejects = Counter("sightline_rejects_total", "rejected images by reason", tag_keys=("reason",))

    def count(self, task: str, outcome: Outcome[Any, Any]) -> None:
        """Add what an item of work came to."""
        self._items.inc(1, {"task": task, "outcome": "failed" if outcome.value is None else "done"})
        if outcome.seconds > 0:
            self._busy.inc(outcome.seconds, {"task": task})
        for name, value in outcome.stats.items():
            if name.startswith("rejected:"):
                self._rejects.inc(value, {"reason": name.removeprefix("rejected:")})
            elif name in self._counters and value > 0:
                self._counters[name].inc(value)


class DriverMetrics:
    """The gauges of the driver."""

    def __init__(self) -> None:
        self._workers = Gauge("sightline_workers", "workers by state", tag_keys=("task", "state"))

    def crew(self, task: str, *, busy: int, opening: int) -> None:
        """Say how many workers are at work, and how many are asked for but not there."""
        self._workers.set(busy, {"task": task, "state": "busy"})
        self._workers.set(opening, {"task": task, "state": "opening"})
