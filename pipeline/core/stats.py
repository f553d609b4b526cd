"""Stats: what a worker did and how long it took, added up by many threads and handed over item by item."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stats:
    """Named sums. Times are seconds over all threads, so they may exceed the time that passed."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._inside: dict[str, int] = {}
        self._since: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, value: float = 1.0) -> None:
        """Add to a sum."""
        with self._lock:
            self._sums[name] = self._sums.get(name, 0.0) + value

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time that the block takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    @contextmanager
    def spanned(self, name: str) -> Iterator[None]:
        """Add the time in which at least one thread is inside such a block: what overlaps counts once."""
        with self._lock:
            self._inside[name] = self._inside.get(name, 0) + 1
            if self._inside[name] == 1:
                self._since[name] = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._inside[name] -= 1
                if not self._inside[name]:
                    took = time.perf_counter() - self._since[name]
                    self._sums[name] = self._sums.get(name, 0.0) + took

    def take(self) -> dict[str, float]:
        """Return the sums since the last time, what is open included, and begin anew."""
        with self._lock:
            now = time.perf_counter()
            for name in (name for name, inside in self._inside.items() if inside):
                self._sums[name] = self._sums.get(name, 0.0) + now - self._since[name]
                self._since[name] = now
            taken, self._sums = self._sums, {}
        return {name: round(value, 6) for name, value in taken.items()}


def category(reason: str) -> str:
    """Return a reason without what differs from image to image, so that there are few of them."""
    return re.sub(r"[0-9]+", "N", reason.split(":")[0])[:60].strip()


def added(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Return the sums of both."""
    return {name: round(one.get(name, 0.0) + other.get(name, 0.0), 6) for name in sorted({*one, *other})}


SKIPPED = "skipped "
"""What the names of counts begin with that say what containers have and is not indexed, followed by its suffix."""


def skipped(stats: dict[str, float]) -> dict[str, int]:
    """Return the counts of what was skipped inside containers, by suffix."""
    return {name.removeprefix(SKIPPED): int(count) for name, count in stats.items() if name.startswith(SKIPPED)}


DEVICE = "on "
"""What the names of counts of shards begin with that were described on a device, followed by its name."""


def devices(stats: dict[str, float]) -> dict[str, int]:
    """Return how many shards were described on each device, the most used first."""
    counts = {name.removeprefix(DEVICE): int(count) for name, count in stats.items() if name.startswith(DEVICE)}
    used = [(name, count) for name, count in counts.items() if count]
    return dict(sorted(used, key=lambda pair: (-pair[1], pair[0])))


REASONS = 20
"""So many reasons of rejects are told one by one."""


def told(stats: dict[str, float]) -> dict[str, float]:
    """Return the sums fit for a summary: the commonest reasons of rejects, and shares in place of their parts.

    idle_share: the part of the workers' time in which their devices computed no forward pass. queue_depth: images
    decoded and waiting, and images_per_pass: images in a forward pass, both on average over passes.
    """
    parts = ("queued", "passed", "passes")
    sums = {name: value for name, value in stats.items() if ":" not in name and name not in parts}
    reasons = sorted((item for item in stats.items() if ":" in item[0]), key=lambda item: (-item[1], item[0]))
    sums.update(reasons[:REASONS])
    if reasons[REASONS:]:
        sums["rejected:other"] = sum(value for _, value in reasons[REASONS:])
    if stats.get("busy_seconds") and "device_seconds" in stats:
        sums["idle_share"] = round(max(0.0, 1 - stats["device_seconds"] / stats["busy_seconds"]), 4)
    if stats.get("passes"):
        sums["queue_depth"] = round(stats["queued"] / stats["passes"], 2)
        sums["images_per_pass"] = round(stats.get("passed", 0.0) / stats["passes"], 2)
    return sums
