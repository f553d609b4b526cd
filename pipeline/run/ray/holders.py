"""The Ray crew: long-lived actors that each hold an opened task, spread over nodes, and all answer every item.

An actor whose process or node dies is started anew by Ray, wherever there is room, and opens its task again; what it
was asked is asked again, up to MAX_ATTEMPTS. Until then, or until the time is up, there is no answer: never a part.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.core.errors import SightlineError, UnavailableError
from pipeline.run.base import MAX_ATTEMPTS, Task, Tasks, describe
from pipeline.run.ray.connection import Connection
from pipeline.run.ray.runner import RayOptions

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("sightline")

CALLS = 8
"""Items that an actor takes at a time; further ones wait for their turn."""
INLINE = 100_000
"""Bytes: larger items are put into the object store, once for all actors. It takes 2 ms more (measured)."""
OPEN_SECONDS = 1800.0
"""Opening may mean to wait for a node, and to download and read as much as fits one."""
LOOK_SECONDS = 15.0
CLOSE_SECONDS = 10.0


class _Holder:
    """The actor. per_node: how many of a crew are on one node, about, and divide its cores among them."""

    def __init__(self, task: Task[Any, Any], per_node: int) -> None:
        # Ray hides no GPU from a process that asked for none.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._threads = max(1, (os.cpu_count() or 1) // per_node)
        # Native libraries read it when they are loaded, which opening the task does: Ray would give them one thread.
        os.environ["OMP_NUM_THREADS"] = str(self._threads)
        self._task, self._lock = task, threading.Lock()
        self._function: Callable[[Any], Any] | None = None
        self.open()

    def open(self) -> SightlineError | None:
        """Open the task unless it is open; return why it could not be opened, which is tried again when asked."""
        with self._lock:
            if self._function is None:
                try:
                    self._function = self._task.open(self._threads)
                except SightlineError as error:
                    return error
                except Exception as error:  # noqa: BLE001 - told to the driver, who asked
                    return SightlineError(describe(error))
        return None

    def answer(self, item: Any) -> Any:
        """Return what the task makes of an item, or the SightlineError that it ended with."""
        failed = self.open()
        if failed is not None:
            return failed
        assert self._function is not None, "it has just been opened"
        try:
            return self._function(item)
        except SightlineError as error:
            return error
        except Exception as error:  # noqa: BLE001 - told to the driver, who asked
            return SightlineError(describe(error))

    def close(self) -> None:
        """Close the function: a process that is killed removes no files."""
        close = getattr(self._function, "close", None)
        if close is not None:
            close()

    def pid(self) -> int:
        """Return the id of this process, on its node."""
        return os.getpid()


HOLDER: Any = ray.remote(max_concurrency=CALLS, max_restarts=-1, max_task_retries=MAX_ATTEMPTS - 1)(_Holder)


class RayCrew(Generic[T, R]):
    """See pipeline.run.base.Crew. Without a number of workers there is one per node of the cluster.

    seconds: how long workers may take to answer; opening: to be placed and to open their tasks. Who is not placed
    shows an autoscaler what is wanted: a CPU, and the memory of its task.
    """

    def __init__(self, tasks: Tasks[T, R], options: RayOptions, seconds: float, opening: float = OPEN_SECONDS) -> None:
        self._seconds, self._actors = seconds, list[Any]()
        self._connection = Connection(options.address)
        try:
            self._open(tasks, options.workers, opening)
        except BaseException:
            self.close()
            raise

    def ask(self, item: T) -> list[R]:
        """Ask all at the same time, and wait for the last one."""
        actors = self._actors
        if not actors:
            raise UnavailableError("the workers have been let go")
        if getattr(item, "nbytes", 0) > INLINE:
            item = ray.put(item)
        asked = [actor.answer.remote(item) for actor in actors]
        _, late = ray.wait(asked, num_returns=len(asked), timeout=self._seconds)
        for reference in late:
            ray.cancel(reference)
        if late:
            raise UnavailableError(
                f"{_names(asked, late)} gave no answer within {self._seconds:g} s and may be starting again; "
                "ask again, or allow more time"
            )
        return [self._result(reference, asked) for reference in asked]

    def pids(self) -> list[int]:
        """Return the process ids of the workers, each on its node."""
        found: list[int] = ray.get([actor.pid.remote() for actor in self._actors], timeout=self._seconds)
        return found

    def close(self) -> None:
        """Let the workers go, and Ray if it was started for them."""
        actors, self._actors = self._actors, []
        if actors and ray.is_initialized():
            closing = [actor.close.remote() for actor in actors]
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
            for actor in actors:
                ray.kill(actor)
        self._connection.close()

    def _open(self, tasks: Tasks[T, R], workers: int, seconds: float) -> None:
        nodes = max(1, sum(bool(node["Alive"]) for node in ray.nodes()))
        mine = tasks(workers or nodes)
        per_node = math.ceil(len(mine) / nodes)
        for task in mine:
            wanted = {"num_cpus": 1, "memory": getattr(task, "memory", None), "scheduling_strategy": "SPREAD"}
            self._actors.append(HOLDER.options(**wanted).remote(task, per_node))
        opened = [actor.open.remote() for actor in self._actors]
        late, started, warned = opened, time.monotonic(), False
        while late:
            left = seconds - (time.monotonic() - started)
            ready, late = ray.wait(late, timeout=min(max(0.0, left), LOOK_SECONDS))
            for reference in ready:
                self._result(reference, opened)
            if left <= 0 and late:
                raise UnavailableError(f"{_names(opened, late)} did not open within {seconds:g} s; {_want(mine)}")
            if late and not ready and not warned:
                log.warning("%s opening, or waiting for a place; %s", _names(opened, late), _want(mine))
                warned = True

    def _result(self, reference: Any, among: list[Any]) -> R:
        try:
            result: Any = ray.get(reference)
        except RayTaskError as error:
            raise SightlineError(describe(error)) from None
        except RayError as error:
            log.debug("%s", describe(error))
            raise UnavailableError(
                f"{_names(among, [reference])} died {MAX_ATTEMPTS} times on the way to an answer, or cannot be "
                f"reached ({type(error).__name__}); ask again"
            ) from None
        if isinstance(result, SightlineError):
            raise result
        return result  # type: ignore[no-any-return]


def _names(all_of: list[Any], some: list[Any]) -> str:
    """Return which workers are meant, as a person would count them."""
    numbers = sorted(all_of.index(reference) + 1 for reference in some)
    shown = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
    return f"worker{'s' if len(numbers) > 1 else ''} {shown} of {len(all_of)}"


def _want(tasks: Sequence[Task[Any, Any]]) -> str:
    largest = max(getattr(task, "memory", 0) for task in tasks)
    return f"each wants a CPU, and memory on its node, up to {largest / 1e9:.1f} GB"
