"""Who may come in: work in hand is counted, and clients are held to their rate. Beyond that the answer is "later"."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from pipeline.serve.metrics import ServeMetrics

R = TypeVar("R")
WINDOW = 3


class BusyError(Exception):
    """Too much at once; status is 429 for this client, 503 for everybody."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(reason)


class GoneError(Exception):
    """Whoever asked has hung up."""


class Rate:
    """Requests of each client, over windows of a few seconds; 0 a second is any number. Client addresses are forgotten
    with their window.
    """

    def __init__(self, per_second: int) -> None:
        self._item = RateLimitItemPerSecond(max(1, per_second * WINDOW), WINDOW)
        self._limiter = FixedWindowRateLimiter(MemoryStorage()) if per_second else None

    def take(self, client: str) -> None:
        """Count a request; BusyError when it is one too many."""
        if self._limiter is not None and not self._limiter.hit(self._item, client):
            raise BusyError(429, f"more than {self._item.amount} requests in {WINDOW} seconds; ask more slowly")


class Desk:
    """Blocking work of one kind, done by a few threads; at most `places` requests are in hand."""

    def __init__(self, work: str, threads: int, places: int, metrics: ServeMetrics) -> None:
        self._pool = ThreadPoolExecutor(threads, f"serve-{work}")
        self._places, self._taken = places, 0
        self._gauge = metrics.waiting.labels(work)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place while the block runs; BusyError when none is free."""
        if self._taken >= self._places:
            raise BusyError(503, f"{self._places} requests are in hand already; try again in a second")
        self._taken += 1
        self._gauge.set(self._taken)
        try:
            yield
        finally:
            self._taken -= 1
            self._gauge.set(self._taken)

    async def do(self, work: Callable[[], R], gone: threading.Event | None = None) -> R:
        """Do it in a thread; GoneError in its place when its turn comes and `gone` is set."""

        def wanted() -> R:
            if gone is not None and gone.is_set():
                raise GoneError
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._pool, wanted)

    def close(self) -> None:
        """Begin nothing more; what is under way ends."""
        self._pool.shutdown(wait=True, cancel_futures=True)
