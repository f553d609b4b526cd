"""Bounded look-ahead: work done by threads ahead of its consumer, in order, within a budget.

Nothing here knows about images. The bound is on what is in flight: submitted and not yet consumed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


def ordered_map(
    function: Callable[[A], B],
    items: Iterable[A],
    *,
    pool: Executor,
    ahead: int,
    budget: int,
    weigh: Callable[[A], int],
    held: Callable[[B], int] | None = None,
) -> Iterator[B]:
    """Yield function(item) in the order of `items`, computed by the threads of `pool` ahead of the consumer.

    At most `ahead` items, and `budget` units as `weigh` counts them, are in flight; a single heavier item goes alone.
    held: what counts of an item once it is done, by its result; its weight without it. An exception raised by
    `function` or by `items` reaches the consumer at its place in the order. The pool may be shared: it serves first
    what was given to it first.
    """
    queue: _Queue[B] = _Queue(budget, ahead, held)
    try:
        for item in items:
            weight = weigh(item)
            while not queue.has_room(weight):
                yield queue.first()
            queue.add(weight, pool.submit(function, item))
        while queue:
            yield queue.first()
    finally:
        queue.cancel()


class _Queue(Generic[B]):
    """Futures in the order of their results, and what they weigh."""

    def __init__(self, budget: int, ahead: int, held: Callable[[B], int] | None) -> None:
        self._budget, self._ahead, self._held = budget, ahead, held
        self._entries: deque[tuple[Future[B], list[int]]] = deque()
        self._in_flight = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._entries)

    def has_room(self, weight: int) -> bool:
        """Wait until there is room for an item, or the first result is there and none was: then False."""
        with self._changed:
            while self._entries and (self._in_flight + weight > self._budget or len(self) >= self._ahead):
                if self._entries[0][0].done():
                    return False
                self._changed.wait()
            return True

    def add(self, weight: int, future: Future[B]) -> None:
        """Put an item at the end."""
        counted = [weight]
        with self._changed:
            self._entries.append((future, counted))
            self._in_flight += weight
        future.add_done_callback(lambda done: self._settle(done, counted))

    def first(self) -> B:
        """Take the first item's result, waiting for it."""
        future, counted = self._entries[0]
        result = future.result()
        with self._changed:
            self._entries.popleft()
            self._in_flight -= counted[0]
            counted[0] = 0
        return result

    def cancel(self) -> None:
        """Forget what is left, as far as it has not begun."""
        for future, _ in list(self._entries):
            future.cancel()

    def _settle(self, future: Future[B], counted: list[int]) -> None:
        kept = counted[0]
        if self._held is not None and not future.cancelled() and future.exception() is None:
            kept = min(kept, self._held(future.result()))
        with self._changed:
            if counted[0]:
                self._in_flight += kept - counted[0]
                counted[0] = kept
            self._changed.notify_all()
