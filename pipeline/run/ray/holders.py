"""The Ray crew: long-lived actors that each hold an opened task, spread over nodes, and all answer every item.

An actor whose process or node dies is started anew by Ray, wherever there is room, and opens its task again. What it
was asked is asked again once it is back, up to MAX_ATTEMPTS in all and until the time is up. There is a whole answer or
an error, never a part.
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
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from pipeline.core.errors import SightlineError, UnavailableError, UserError
from pipeline.core.threads import usable_cores
from pipeline.run.base import MAX_ATTEMPTS, Task, Tasks, describe
from pipeline.run.ray.connection import Connection
from pipeline.run.ray.options import RayOptions

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
AGAIN_SECONDS = 0.5
CLOSE_SECONDS = 10.0
LET_GO = "the workers have been let go"


class _Holder:
    """The actor. per_node: how many of a crew are on one node, about, and divide its cores among them."""

    def __init__(self, task: Task[Any, Any], per_node: int) -> None:
        # Ray hides no GPU from a process that asked for none.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._threads = max(1, usable_cores() // per_node)
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


# Ray's own retries of a call are used up before it has noticed that a node is gone.
HOLDER: Any = ray.remote(max_concurrency=CALLS, max_restarts=-1, max_task_retries=0)(_Holder)


class RayCrew(Generic[T, R]):
    """See pipeline.run.base.Crew. Without a number of workers there is one per node of the cluster.

    seconds: how long workers may take to answer; opening: to be placed and to open their tasks. They are placed by the
    memory of their tasks alone: a worker that mostly waits is to hold no CPU from a run. Who is not placed shows an
    autoscaler what is wanted; a Ray on this machine alone is refused what it does not have.
    """

    def __init__(self, tasks: Tasks[T, R], options: RayOptions, seconds: float, opening: float = OPEN_SECONDS) -> None:
        self._seconds, self._lock = seconds, threading.Lock()
        self._tasks: Sequence[Task[T, R]] = ()
        self._per_node, self._actors = 1, list[Any]()
        self._connection = Connection(options.address)
        try:
            self._open(tasks, options, opening)
        except BaseException:
            # Who is still waiting for a place or for its files does not hear that it is to close.
            self._let_go(1.0)
            raise

    def ask(self, item: T) -> list[R]:
        """Ask all at the same time, and wait for the last one."""
        with self._lock:
            actors = list(self._actors)
        if not actors:
            raise UnavailableError(LET_GO)
        if getattr(item, "nbytes", 0) > INLINE:
            item = ray.put(item)
        deadline = time.monotonic() + self._seconds
        asked = [actor.answer.remote(item) for actor in actors]
        _, late = ray.wait(asked, num_returns=len(asked), timeout=self._seconds)
        for reference in late:
            ray.cancel(reference)
        if late:
            raise UnavailableError(
                f"{_names(asked, late)} gave no answer within {self._seconds:g} s; ask again, or allow more time"
            )
        return [self._settled(number, reference, item, deadline) for number, reference in enumerate(asked)]

    def pids(self) -> list[int]:
        """Return the process ids of the workers, each on its node."""
        found: list[int] = ray.get([actor.pid.remote() for actor in self._actors], timeout=self._seconds)
        return found

    def close(self) -> None:
        """Let the workers go, and Ray if it was started for them."""
        self._let_go(CLOSE_SECONDS)

    def _let_go(self, seconds: float) -> None:
        with self._lock:
            actors, self._actors = self._actors, []
        if actors and ray.is_initialized():
            closing = [actor.close.remote() for actor in actors]
            ray.wait(closing, num_returns=len(closing), timeout=seconds)
            for actor in actors:
                ray.kill(actor)
        self._connection.close()

    def _open(self, tasks: Tasks[T, R], options: RayOptions, seconds: float) -> None:
        nodes = max(1, sum(bool(node["Alive"]) for node in ray.nodes()))
        self._tasks = tasks(options.workers or nodes)
        self._per_node = math.ceil(len(self._tasks) / nodes)
        if not options.address:
            self._fits()
        for task in self._tasks:
            self._actors.append(self._start(task))
        # This one is asked while the actor is still starting, and a process that dies meanwhile is not the end.
        opened = [actor.open.options(max_task_retries=MAX_ATTEMPTS - 1).remote() for actor in self._actors]
        late, started, warned = opened, time.monotonic(), False
        while late:
            left = seconds - (time.monotonic() - started)
            ready, late = ray.wait(late, timeout=min(max(0.0, left), LOOK_SECONDS))
            for reference in ready:
                self._opened(reference, opened)
            if left <= 0 and late:
                told = f"{_names(opened, late)} did not open within {seconds:g} s"
                raise UnavailableError(f"{told}; {_want(self._tasks)}")
            if late and not ready and not warned:
                log.warning("%s: opening, or waiting for a place; %s", _names(opened, late), _want(self._tasks))
                warned = True

    def _fits(self) -> None:
        wanted = sum(task.resources.memory for task in self._tasks)
        there = float(ray.cluster_resources().get("memory", 0))
        if wanted > there:
            raise UserError(
                "--runner ray",
                f"wants {wanted / 1e9:.1f} GB of memory for its workers, and Ray has {there / 1e9:.1f} GB here",
                "join a larger cluster by --address",
            )

    def _start(self, task: Task[T, R]) -> Any:
        wanted = {"num_cpus": 0, "memory": task.resources.memory or None, "scheduling_strategy": "SPREAD"}
        return HOLDER.options(**wanted).remote(task, self._per_node)

    @staticmethod
    def _opened(reference: Any, among: list[Any]) -> None:
        try:
            failed = ray.get(reference)
        except RayError as error:
            raise UnavailableError(f"{_names(among, [reference])} died while opening ({describe(error)})") from None
        if failed is not None:
            raise failed

    def _settled(self, number: int, reference: Any, item: Any, deadline: float) -> R:
        """Return a worker's answer; ask it again when it died."""
        name = f"worker {number + 1} of {len(self._tasks)}"
        for _ in range(MAX_ATTEMPTS):
            try:
                result: Any = ray.get(reference, timeout=_left(deadline))
            except RayActorError as error:
                log.warning("%s was lost; it is asked again when it is back", name)
                log.debug("%s", describe(error))
                reference = self._returned(number, name, deadline).answer.remote(item)
                continue
            except RayTaskError as error:
                raise SightlineError(f"{name}: {describe(error)}") from None
            except RayError as error:
                raise UnavailableError(f"{name} gave no answer ({type(error).__name__}); ask again") from None
            if isinstance(result, SightlineError):
                raise result
            return result  # type: ignore[no-any-return]
        raise UnavailableError(f"{name} died {MAX_ATTEMPTS} times on the way to an answer")

    def _returned(self, number: int, name: str, deadline: float) -> Any:
        """Return a worker that was lost when it has opened its task anew."""
        while _left(deadline):
            actor = self._current(number)
            try:
                ray.get(actor.open.remote(), timeout=_left(deadline))
            except RayActorError as error:
                time.sleep(min(AGAIN_SECONDS, _left(deadline)))
                if isinstance(error, ActorDiedError):
                    self._replace(number, actor)
            except RayError:
                break
            else:
                return actor
        raise UnavailableError(
            f"{name} was lost and has not come back within {self._seconds:g} s; ask again, or allow more time"
        )

    def _current(self, number: int) -> Any:
        with self._lock:
            if not self._actors:
                raise UnavailableError(LET_GO)
            return self._actors[number]

    def _replace(self, number: int, dead: Any) -> None:
        """Start another worker in the place of one that Ray has given up; the first thread to see that does it."""
        with self._lock:
            if self._actors and self._actors[number] is dead:
                self._actors[number] = self._start(self._tasks[number])


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _names(all_of: list[Any], some: list[Any]) -> str:
    """Return which workers are meant, as a person would count them."""
    numbers = sorted(all_of.index(reference) + 1 for reference in some)
    shown = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
    return f"worker{'s' if len(numbers) > 1 else ''} {shown} of {len(all_of)}"


def _want(tasks: Sequence[Task[Any, Any]]) -> str:
    largest = max(task.resources.memory for task in tasks)
    return f"they want memory on their nodes, each up to {largest / 1e9:.1f} GB"
