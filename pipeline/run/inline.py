"""The inline runner and crew: everything in this process, in its order. What tests and small collections use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, Generic, TypeVar

from pipeline.core.errors import SightlineError
from pipeline.core.limited_pool import Limit, LimitedPool
from pipeline.core.prefetch import ordered_map
from pipeline.core.threads import usable_cores
from pipeline.core.types import Outcome
from pipeline.run.base import Task, attempt, depth_of, limit_of, shown

T = TypeVar("T")
R = TypeVar("R")


class InlineRunner:
    """See pipeline.run.base.Runner. threads: of a task; 0 means one for each core that this process may use."""

    name = "inline"

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads

    def map(self, task: Task[T, R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
        """Yield outcomes in the order of the items; the task is opened when the first item comes."""
        items = iter(items)
        first = next(items, None)
        if first is None:
            return
        function = task.open(self._threads or usable_cores())
        work, depth = chain([first], items), depth_of(task, function)
        if depth == 1 and not limit_of(task, first).seconds:
            yield from map(_usable, map(partial(attempt, function), work))
            return
        pool = LimitedPool(depth, "inline", _limit(task, depth))
        try:
            outcomes = ordered_map(
                partial(attempt, function), work, pool=pool, ahead=depth, budget=depth, weigh=lambda _: 1
            )
            yield from map(_usable, outcomes)
        except BaseException:
            # Whoever presses Ctrl-C is not to wait for a shard to end.
            stop = getattr(function, "stop", None)
            if stop is not None:
                stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def room(self, task: Task[Any, Any]) -> int:  # noqa: ARG002 - the same for any
        """This process."""
        return 1

    def progress(self, phase: str, pending: int, seconds: float) -> None:
        """The reporter shows it; nobody else watches."""

    def close(self) -> None:
        """Nothing was started."""


def _limit(task: Task[T, R], depth: int) -> Limit:
    """Return the limit of a call. Nothing can end a call of this process, so that the run ends.

    An item may wait for the one before it, and may end by itself some time after its limit.
    """
    times = 1 + depth

    def late(item: T) -> None:
        raise SightlineError(
            f"{shown(item)}: {limit_of(task, item).exceeded} and does not end; run the same command again, finished "
            "shards stay (with --runner ray, a worker that hangs is replaced and the run goes on)"
        )

    return Limit(seconds=lambda item: times * limit_of(task, item).seconds, late=late)


def _usable(outcome: Outcome[T, R]) -> Outcome[T, R]:
    """Return an outcome; a SightlineError where it shows that this process cannot do any other item either."""
    if outcome.fault == "worker":
        raise SightlineError(
            f"this process is broken ({outcome.error}); run the same command again, finished shards stay"
        )
    return outcome


class InlineCrew(Generic[T, R]):
    """See pipeline.run.base.Crew. An error of any task is raised as it is."""

    def __init__(self, tasks: Sequence[Task[T, R]]) -> None:
        self._functions: list[Callable[[T], R]] = []
        try:
            for task in tasks:
                self._functions.append(task.open(usable_cores()))
        except BaseException:
            self.close()
            raise

    def ask(self, item: T) -> list[R]:
        """Ask one after the other."""
        return [function(item) for function in self._functions]

    def close(self) -> None:
        """Close what can be closed."""
        for function in self._functions:
            close = getattr(function, "close", None)
            if close is not None:
                close()
