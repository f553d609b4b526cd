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

    def take(self) -> dict[str, float]:
        """Return the sums since the last time, and begin anew."""
        with self._lock:
            taken, self._sums = self._sums, {}
        return {name: round(value, 6) for name, value in taken.items()}


def category(reason: str) -> str:
    """Return a reason without what differs from image to image, so that there are few of them."""
    return re.sub(r"[0-9]+", "N", reason.split(":")[0])[:60].strip()


def added(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Return the sums of both."""
    return {name: round(one.get(name, 0.0) + other.get(name, 0.0), 6) for name in sorted({*one, *other})}


def told(stats: dict[str, float]) -> dict[str, float]:
    """Return the sums fit for a summary: reasons of rejects are in the rejects files, image by image."""
    return {name: value for name, value in stats.items() if ":" not in name}
