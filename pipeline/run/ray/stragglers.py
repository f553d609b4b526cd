"""Stragglers: calls that take far longer than others did. They are issued again, and ended past their limits.

As in MapReduce: near the end of a phase, when workers would be idle, an item that takes a multiple of the time that
others took is given to a second worker as well. The first outcome counts. What the other one still does is harmless,
see Task; it is ended after a grace, so that it does not keep its GPU.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.run.base import Task, limit_of
from pipeline.run.ray.crew import Call, Member, Ticket

T = TypeVar("T")

_REMEMBERED = 1001


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """When an item is issued again: it takes `factor` times what is expected by the median of the items that are done,
    and `least_seconds`, and `finished` items are done. factor 0: never.

    grace_seconds: how long a worker may go on with an item that another one has done.
    """

    factor: float = 3.0
    least_seconds: float = 30.0
    finished: int = 3
    grace_seconds: float = 30.0


class Pace:
    """How long the items of one phase take."""

    def __init__(self, speculation: Speculation) -> None:
        self._speculation = speculation
        self._done: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self._medians: tuple[float, float] | None = None

    def note(self, item: object, seconds: float) -> None:
        """Note an item that is done."""
        self._done.append((seconds, weight_of(item)))
        self._medians = None

    def expected(self, item: object) -> float | None:
        """Return the seconds that an item should take; None while too few are done.

        The median of the others, and more in proportion to what the item is larger than the median of theirs.
        """
        if len(self._done) < max(1, self._speculation.finished):
            return None
        if self._medians is None:
            self._medians = (
                statistics.median(seconds for seconds, _ in self._done),
                statistics.median(weight for _, weight in self._done),
            )
        seconds, weights = self._medians
        return seconds * (max(1.0, weight_of(item) / weights) if weights else 1.0)

    def is_straggler(self, item: object, seconds: float) -> bool:
        """Tell whether an item that has taken so long by now is to be issued again."""
        expected = self.expected(item) if self._speculation.factor else None
        if expected is None:
            return False
        return seconds > max(self._speculation.least_seconds, self._speculation.factor * expected)

    def stragglers(self, calls: dict[Any, Call[T]], now: float) -> Iterator[tuple[Ticket[T], float]]:
        """Yield what is to be issued again and how long it has taken, longest first; an item is twice under way at
        most.
        """
        for call in sorted(_first(calls), key=lambda call: call.since):
            ticket = call.ticket
            if ticket is None or ticket.done is not None or ticket.copies > 1:
                continue
            if self.is_straggler(ticket.item, now - call.since):
                yield ticket, now - call.since

    def outlived(self, calls: dict[Any, Call[T]], now: float) -> Iterator[Call[T]]:
        """Yield calls whose items others have done, and whose grace is over."""
        for call in calls.values():
            done = call.ticket.done if call.ticket is not None else None
            if done is not None and now - done > self._speculation.grace_seconds:
                yield call


def weight_of(item: object) -> float:
    """Return how large an item is in bytes; 0 where that is not known."""
    return float(getattr(item, "bytes", 0) or 0)


def overdue(calls: dict[Any, Call[T]], task: Task[T, Any], now: float) -> Iterator[Call[T]]:
    """Yield the calls that have taken longer than their items may."""
    for call in _first(calls):
        seconds = limit_of(task, call.ticket.item).seconds if call.ticket is not None else 0.0
        if seconds and now - call.since > seconds:
            yield call


def drop(calls: dict[Any, Call[T]], member: Member) -> list[Call[T]]:
    """Forget the calls of a worker and return them."""
    dropped = {reference: call for reference, call in calls.items() if call.member is member}
    for reference in dropped:
        del calls[reference]
    return list(dropped.values())


def _first(calls: dict[Any, Call[T]]) -> list[Call[T]]:
    """Return the first call of each worker: the others wait for it, at least in part."""
    first: dict[int, Call[T]] = {}
    for call in calls.values():
        first.setdefault(id(call.member), call)
    return list(first.values())
