"""How many threads native libraries use: OpenMP and BLAS, for the length of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


def limited(function: Callable[[T], R], threads: int) -> Callable[[T], R]:
    """Return a function whose calls use so many threads, more or fewer than the process would by itself.

    Ray gives a worker with one CPU one thread, whatever its machine has; the limit belongs to the calling thread, so
    it is set anew in each call.
    """

    def call(item: T) -> R:
        with threadpool_limits(threads):
            return function(item)

    return call
