"""What a run tells Prometheus, through Ray's own metrics: they appear as ray_sightline_* on each node's export port.

Workers count what they did, the driver says what is left. Nothing is measured here; see pipeline/core/stats.py.
"""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Counter, Gauge

from pipeline.core.stats import told
from pipeline.core.types import Outcome

COUNTERS = {
    "images": "images described",
    "bytes": "encoded bytes of the images read",
    "rejected": "images that could not be used",
    "retries": "storage requests tried again",
    "decode_seconds": "time spent decoding, over all threads",
    "forward_seconds": "time spent in the network",
    "device_seconds": "time in which the device computed forward passes: a GPU by its own clock",
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
        self._queue = Gauge("sightline_queue_depth", "images decoded and waiting for the network, over the last shard")
        self._idle = Gauge("sightline_gpu_idle_share", "share of the last shard's time without a pass on the device")

    def count(self, task: str, outcome: Outcome[Any, Any]) -> None:
        """Add what an item of work came to."""
        self._items.inc(1, {"task": task, "outcome": "failed" if outcome.value is None else "done"})
        # Two items of a worker may overlap; what it says of itself counts their time once.
        busy = outcome.stats.get("busy_seconds", outcome.seconds)
        if busy > 0:
            self._busy.inc(busy, {"task": task})
        for name, value in outcome.stats.items():
            if name.startswith("rejected:"):
                self._rejects.inc(value, {"reason": name.removeprefix("rejected:")})
            elif name in self._counters and value > 0:
                self._counters[name].inc(value)
        shares = told({"busy_seconds": outcome.seconds, **outcome.stats})
        if "queue_depth" in shares:
            self._queue.set(shares["queue_depth"])
            self._idle.set(shares["idle_share"])


class DriverMetrics:
    """The gauges of the driver."""

    def __init__(self) -> None:
        self._workers = Gauge("sightline_workers", "workers by state", tag_keys=("task", "state"))
        self._pending = Gauge("sightline_pending_items", "items of a phase not yet done", tag_keys=("phase",))
        self._phase = Gauge("sightline_phase_seconds", "how long a phase has taken so far", tag_keys=("phase",))

    def crew(self, task: str, *, busy: int, opening: int) -> None:
        """Say how many workers are at work, and how many are asked for but not there."""
        self._workers.set(busy, {"task": task, "state": "busy"})
        self._workers.set(opening, {"task": task, "state": "opening"})

    def phase(self, name: str, pending: int, seconds: float) -> None:
        """Say how far a phase is."""
        self._pending.set(pending, {"phase": name})
        self._phase.set(seconds, {"phase": name})
