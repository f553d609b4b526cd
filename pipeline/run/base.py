"""Runner: carries out one task over many items and yields outcomes as they come; errors are values.

Crew: holds several opened tasks and gives each item to all of them; errors are raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from pipeline.core.errors import (
    AccessError,
    ContentError,
    PlaceError,
    SightlineError,
    StoreError,
    UserError,
    bare,
    of_reading,
)
from pipeline.core.resources import Resources
from pipeline.core.types import Fault, Outcome, TimeLimit
from pipeline.run.faults import fault_of

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

MAX_ATTEMPTS = 3
"""After so many lost workers or transient errors an item is set aside as poison."""
ENDS_RUN = (AccessError, PlaceError)
"""Every other item would fail as well: no valid credentials, or a ROOT or scratch space that cannot be written."""


class Task(Protocol[T_contra, R_co]):
    """What a runner sends to workers: small, picklable; `open` loads in the worker what its function needs.

    A function may be given several items at a time, see `depth_of`; it may have a method `stop`, which ends the calls
    under way.
    A task with a method `limit` says by it how long each item may take (a TimeLimit); without it, for ever.
    A task may be given an item twice, also in two processes at the same time: what it writes is created if absent, or
    the same bytes in one step.
    """

    @property
    def resources(self) -> Resources:
        """What a worker of this task needs."""
        ...

    def open(self, threads: int) -> Callable[[T_contra], R_co]:
        """Load and return the function from item to result, which may use so many threads. An error ends the run.

        A function with a method `take_stats` is asked after every item for what it did (see core/stats.py).
        """
        ...


class Runner(Protocol):
    """Carries out tasks. Items are pulled as workers become free; outcomes come in order of completion."""

    name: str

    def map(self, task: Task[T, R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
        """Yield one Outcome per item. UserErrors of a task's `open`, and ENDS_RUN, are raised; others are values."""
        ...

    def room(self, task: Task[Any, Any]) -> int:
        """Return how many workers of a task there would be now, at least one."""
        ...

    def progress(self, phase: str, pending: int, seconds: float) -> None:
        """Hear how far the job is, for those who watch the runner: items left and seconds taken of a phase."""
        ...

    def close(self) -> None:
        """Let go of everything that was started."""
        ...


class Crew(Protocol[T_contra, R_co]):
    """Workers that each hold an opened task of their own, for as long as they are wanted; thread-safe."""

    def ask(self, item: T_contra) -> Sequence[R_co]:
        """Give an item to every worker; return what each made of it, in the order of the tasks.

        The answers are whole: an error of one worker is raised, and an UnavailableError when one does not answer. An
        item with an attribute `nbytes` says how large it is.
        """
        ...

    def close(self) -> None:
        """Let the workers go; a function with a method `close` is closed before."""
        ...


Tasks = Callable[[int], Sequence[Task[T, R]]]
"""Gives the tasks of so many workers, or of fewer when there is not so much to share."""


def depth_of(task: Task[Any, Any], function: Callable[..., Any] | None = None) -> int:
    """Return how many items a worker takes at a time, by what it has opened, which knows its device, or by its task."""
    return int(getattr(function, "depth", task.resources.depth))


def limit_of(task: Task[T, Any], item: T) -> TimeLimit:
    """Return how long an item of a task may take."""
    limit: Callable[[T], TimeLimit] | None = getattr(task, "limit", None)
    return limit(item) if limit is not None else TimeLimit()


def shown(item: object) -> str:
    """Return what an item is called in a message: where its bytes lie and its id, or what it is."""
    uri, name = getattr(item, "uri", ""), getattr(item, "id", "")
    return f"{uri} ({name})" if uri and name else str(item)[:200]


def name_of(task: Task[Any, Any]) -> str:
    """Return what a task is called in metrics: its attribute `label`, else its type."""
    return str(getattr(task, "label", type(task).__name__))


def attempt(function: Callable[[T], R], item: T, attempts: int = 1) -> Outcome[T, R]:
    """Apply a function to an item; any Exception becomes the Outcome's error, one line without a traceback.

    Only errors that end the run are raised, see ENDS_RUN.
    """
    started = time.perf_counter()
    value, line, place = None, None, ""
    unread = content = False
    fault: Fault = ""
    try:
        value = function(item)
    except ENDS_RUN:
        raise
    except Exception as error:  # noqa: BLE001 - a poison item must cost itself only, and is reported by name
        line, fault = describe(error, place=False), fault_of(error)
        unread, content = of_reading(error), isinstance(error, ContentError)
        place = error.place if isinstance(error, StoreError) else ""
    take = getattr(function, "take_stats", None)
    return Outcome(
        item=item,
        value=value,
        error=line,
        fault=fault,
        unread=unread,
        content=content,
        place=place,
        seconds=time.perf_counter() - started,
        attempts=attempts,
        stats=take() if take is not None else {},
    )


def describe(error: BaseException, *, place: bool = True) -> str:
    """Return an error as one line, with the place that it names or without; others than ours are named by type."""
    text = " ".join((str(error) if place else bare(error)).split())
    return text if isinstance(error, SightlineError) else f"{type(error).__name__}: {text}"


__all__ = [
    "ENDS_RUN",
    "MAX_ATTEMPTS",
    "Crew",
    "Outcome",
    "Resources",
    "Runner",
    "Task",
    "Tasks",
    "UserError",
    "attempt",
    "depth_of",
    "describe",
    "limit_of",
    "name_of",
    "shown",
]
