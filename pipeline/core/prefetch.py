"""Bounded look-ahead: work done by threads ahead of its consumer, in order, within a budget.

Nothing here knows about images. The bound is on what is in flight: submitted and not yet consumed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

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
) -> Iterator[B]:
    """Yield function(item) in the order of `items`, computed by the threads of `pool` ahead of the consumer.

    At most `ahead` items, and `budget` units as `weigh` counts them, are in flight; a single heavier item goes alone.
    An exception raised by `function` or by `items` reaches the consumer at its place in the order. The pool may be
    shared: it serves first what was given to it first.
    """
    queue: deque[tuple[int, Future[B]]] = deque()
    in_flight = 0
    try:
        for item in items:
            weight = weigh(item)
            while queue and (in_flight + weight > budget or len(queue) >= ahead):
                done, future = queue.popleft()
                yield future.result()
                in_flight -= done
            queue.append((weight, pool.submit(function, item)))
            in_flight += weight
        while queue:
            yield queue.popleft()[1].result()
    finally:
        for _, future in queue:
            future.cancel()
