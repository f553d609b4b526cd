"""Runner: carries out one task over many items and yields outcomes as they come; errors are values.

Crew: holds several opened tasks and gives each item to all of them; errors are raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from pipeline.core.errors import AccessError, PlaceError, SightlineError, StoreError, UserError, bare, of_reading
from pipeline.core.types import Fault, Outcome
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

    A task with an attribute `memory` takes so many bytes in a worker of its own (see Crew).
    A task with an attribute `depth` is given so many items at a time per worker, each by a thread of its own; its
    function may have a method `stop`, which ends the calls that are under way.
    """

    @property
    def uses_gpu(self) -> bool:
        """Whether a worker of this task wants a GPU where there is one."""
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


def depth_of(task: Task[Any, Any]) -> int:
    """Return how many items a worker of a task takes at a time."""
    return int(getattr(task, "depth", 1))


def name_of(task: Task[Any, Any]) -> str:
    """Return what a task is called in metrics: its attribute `label`, else its type."""
    return str(getattr(task, "label", type(task).__name__))


def attempt(function: Callable[[T], R], item: T, attempts: int = 1) -> Outcome[T, R]:
    """Apply a function to an item; any Exception becomes the Outcome's error, one line without a traceback.

    Only errors that end the run are raised, see ENDS_RUN.
    """
    started = time.perf_counter()
    value, line, unread, place = None, None, False, ""
    fault: Fault = ""
    try:
        value = function(item)
    except ENDS_RUN:
        raise
    except Exception as error:  # noqa: BLE001 - a poison item must cost itself only, and is reported by name
        line, fault, unread = describe(error, place=False), fault_of(error), of_reading(error)
        place = error.place if isinstance(error, StoreError) else ""
    take = getattr(function, "take_stats", None)
    return Outcome(
        item=item,
        value=value,
        error=line,
        fault=fault,
        unread=unread,
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
    "Runner",
    "Task",
    "Tasks",
    "UserError",
    "attempt",
    "depth_of",
    "describe",
    "name_of",
]
