"""The inline runner and crew: everything in this process, in its order. What tests and small collections use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Generic, TypeVar

from pipeline.core.errors import SightlineError
from pipeline.core.prefetch import ordered_map
from pipeline.core.types import Outcome
from pipeline.run.base import Task, attempt, depth_of

T = TypeVar("T")
R = TypeVar("R")


class InlineRunner:
    """See pipeline.run.base.Runner."""

    name = "inline"

    def map(self, task: Task[T, R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
        """Yield outcomes in the order of the items; the task is opened when the first item comes."""
        items = iter(items)
        first = next(items, None)
        if first is None:
            return
        function = task.open(os.cpu_count() or 1)
        work, depth = chain([first], items), depth_of(task, function)
        if depth == 1:
            yield from map(_usable, map(partial(attempt, function), work))
            return
        pool = ThreadPoolExecutor(depth, "inline")
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

    def progress(self, phase: str, pending: int, seconds: float) -> None:
        """The reporter shows it; nobody else watches."""

    def close(self) -> None:
        """Nothing was started."""


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
                self._functions.append(task.open(os.cpu_count() or 1))
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
