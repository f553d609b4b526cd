"""What the Ray runner keeps in mind: workers, the calls they have under way, and the items that wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class Member:
    """One worker: how many calls it has under way, and whether one of them must have it for itself.

    node: where it runs, once it has opened the task; depth: how many calls it takes at a time then. failures: items in
    a row that failed for no known reason. lost: it is used no more, and what it has under way is lost with it.
    """

    actor: Any
    gpus: float
    calls: int = 0
    depth: int = 1
    opening: bool = True
    alone: bool = False
    node: str = ""
    failures: int = 0
    lost: bool = False


@dataclass
class Call(Generic[T]):
    """A call under way: an item, or the opening of the task (None)."""

    member: Member
    item: T | None
    attempts: int


class Work(Generic[T]):
    """Items that wait: those to be tried again first, then the rest, of which few are looked at ahead."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._next: deque[T] = deque()
        self._retries: deque[tuple[T, int]] = deque()

    @property
    def waiting(self) -> bool:
        """Whether there is any item."""
        return bool(self._retries) or self.more_than(0)

    @property
    def retry_is_next(self) -> bool:
        """Whether the next item has already cost a worker."""
        return bool(self._retries)

    def more_than(self, count: int) -> bool:
        """Whether more than so many new items wait."""
        while len(self._next) <= count:
            item = next(self._items, None)
            if item is None:
                return False
            self._next.append(item)
        return True

    def take(self) -> tuple[T, int] | None:
        """Return the next item and how often it was tried."""
        if not self.waiting:
            return None
        return self._retries.popleft() if self._retries else (self._next.popleft(), 0)

    def again(self, item: T, attempts: int) -> None:
        """Put back an item that cost a worker."""
        self._retries.append((item, attempts))


def crew(calls: dict[Any, Call[T]]) -> list[Member]:
    """Return the workers that have calls under way."""
    return list({id(call.member): call.member for call in calls.values()}.values())
