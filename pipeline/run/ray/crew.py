"""What the Ray runner keeps in mind: workers, the calls they have under way, and the items that wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.run.base import MAX_ATTEMPTS
from pipeline.run.ray.shapes import Shape

T = TypeVar("T")


@dataclass(eq=False)
class Member:
    """One worker: how many calls it has under way, and whether one of them must have it for itself.

    shape: what it was started with. node: where it runs, once it has opened the task; depth: how many calls it takes at
    a time then. failures: items in a row that failed for no known reason. lost: it is used no more, and what it has
    under way is lost with it.
    """

    actor: Any
    shape: Shape
    calls: int = 0
    depth: int = 1
    opening: bool = True
    alone: bool = False
    node: str = ""
    failures: int = 0
    lost: bool = False


@dataclass(eq=False)
class Ticket(Generic[T]):
    """An item on its way to one outcome. attempts: tries that have failed. copies: calls under way or waiting.

    done: when it had its outcome, by a monotonic clock in seconds; what comes later of it counts for nothing.
    """

    item: T
    attempts: int = 0
    copies: int = 1
    done: float | None = None


@dataclass(eq=False)
class Call(Generic[T]):
    """A call under way: an item, or the opening of the task (None). attempts: that it is the how manieth of.

    since: when it became the first of its worker's calls, by a monotonic clock in seconds. A worker of two items reads
    the second one while the first one ends.
    """

    member: Member
    ticket: Ticket[T] | None
    attempts: int
    since: float = 0.0

    @property
    def awaited(self) -> bool:
        """Whether it is the call of an item that has no outcome yet."""
        return self.ticket is not None and self.ticket.done is None


class Work(Generic[T]):
    """Items that wait: those to be tried again first, then the rest, of which few are looked at ahead."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._next: deque[T] = deque()
        self._retries: deque[Ticket[T]] = deque()

    @property
    def waiting(self) -> bool:
        """Whether there is any item."""
        return self.retry_is_next or self.more_than(0)

    @property
    def retry_is_next(self) -> bool:
        """Whether the next item has been tried before, or is being tried."""
        while self._retries and self._retries[0].done is not None:
            self._retries.popleft()
        return bool(self._retries)

    def more_than(self, count: int) -> bool:
        """Whether more than so many new items wait."""
        while len(self._next) <= count:
            item = next(self._items, None)
            if item is None:
                return False
            self._next.append(item)
        return True

    def exceeds(self, count: int) -> bool:
        """Whether more than so many items wait, new ones or others."""
        retries = sum(ticket.done is None for ticket in self._retries)
        return retries > count or self.more_than(count - retries)

    def take(self) -> Ticket[T] | None:
        """Return the next item."""
        if not self.waiting:
            return None
        return self._retries.popleft() if self._retries else Ticket(self._next.popleft())

    def failed(self, ticket: Ticket[T]) -> bool:
        """Note a try that failed: it is tried again, unless a copy is under way. True when it was the last try."""
        ticket.attempts += 1
        ticket.copies -= 1
        if ticket.copies:
            return False
        if ticket.attempts >= MAX_ATTEMPTS:
            return True
        self.copy(ticket)
        return False

    def give_back(self, calls: Iterable[Call[T]]) -> None:
        """Note calls that were ended for the sake of another one: their items are tried again, at no cost."""
        for call in calls:
            if call.ticket is not None:
                call.ticket.copies -= 1
                if call.awaited and not call.ticket.copies:
                    self.copy(call.ticket)

    def copy(self, ticket: Ticket[T]) -> None:
        """Have an item carried out, whether or not it is under way."""
        ticket.copies += 1
        self._retries.append(ticket)


def crew(calls: dict[Any, Call[T]]) -> list[Member]:
    """Return the workers that have calls under way."""
    return list({id(call.member): call.member for call in calls.values()}.values())


def first_call(calls: dict[Any, Call[T]], member: Member) -> Call[T] | None:
    """Return the oldest of a worker's calls."""
    return next((call for call in calls.values() if call.member is member), None)
