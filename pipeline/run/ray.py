"""The Ray runner: actors that each hold an opened task, fed one item at a time. The only file that imports ray.

A worker that dies costs its item one attempt; the item goes to another worker, up to MAX_ATTEMPTS, and a fresh worker
takes the place. Items are pulled lazily, so a million shards are never queued. Pixels and vectors never travel: a
shard goes in, a record comes out.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayActorError, RayError

from pipeline.core.errors import AccessError, SightlineError, UserError
from pipeline.core.types import Outcome
from pipeline.run.base import MAX_ATTEMPTS, Task, attempt, describe

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("sightline")


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where and with what workers run. workers 0 means one per GPU, or one per two CPUs where there is no GPU."""

    address: str = ""
    workers: int = 0
    gpus_per_worker: float = 1.0


@dataclass
class _Slot(Generic[T]):
    """One worker and what it is busy with."""

    actor: Any
    gpus: float
    item: T | None = None
    attempts: int = 0
    opening: bool = True


class RayRunner:
    """See pipeline.run.base.Runner. Starts a private local Ray when no address is given."""

    name = "ray"

    def __init__(self, options: RayOptions) -> None:
        self._options = options
        self._idle: dict[float, list[Any]] = {}
        self._started = not ray.is_initialized()
        if self._started:
            # Usage statistics go to a third party, and the dashboard is an open port: both stay off.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            _connect(options.address)

    def map(self, task: Task[T, R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
        """Yield outcomes as workers finish; at most one item per worker is in flight."""
        pending = iter(items)
        retries: deque[tuple[T, int]] = deque()
        first = next(pending, None)
        if first is None:
            return
        retries.append((first, 0))
        slots: dict[Any, _Slot[T]] = {}
        try:
            for _ in range(self._workers(task)):
                self._start(task, slots)
            while slots:
                ready, _ = ray.wait(list(slots), num_returns=1)
                yield from self._settle(ready[0], slots, task, pending, retries)
        finally:
            for slot in slots.values():
                ray.kill(slot.actor)

    def close(self) -> None:
        """Let the workers go, and shut Ray down if this runner started it."""
        for actor in [actor for idle in self._idle.values() for actor in idle]:
            ray.kill(actor)
        self._idle.clear()
        if self._started:
            ray.shutdown()

    def _settle(
        self,
        reference: Any,
        slots: dict[Any, _Slot[T]],
        task: Task[T, R],
        pending: Iterator[T],
        retries: deque[tuple[T, int]],
    ) -> Iterator[Outcome[T, R]]:
        slot = slots.pop(reference)
        try:
            result = ray.get(reference)
        except RayActorError as error:
            yield from self._after_a_loss(slot, error, slots, task, retries)
            return
        except RayError as error:
            result = Outcome(item=slot.item, value=None, error=describe(error), attempts=slot.attempts)
        if isinstance(result, SightlineError):
            ray.kill(slot.actor)
            raise result
        if slot.opening:
            slot.opening = False
            slot.attempts = 0
        else:
            yield result
        following = retries.popleft() if retries else (next(pending, None), 0)
        if following[0] is None:
            self._idle.setdefault(slot.gpus, []).append(slot.actor)
            return
        slot.item, slot.attempts = following[0], following[1] + 1
        slots[slot.actor.run.remote(slot.item, slot.attempts)] = slot

    def _after_a_loss(
        self,
        slot: _Slot[T],
        error: RayActorError,
        slots: dict[Any, _Slot[T]],
        task: Task[T, R],
        retries: deque[tuple[T, int]],
    ) -> Iterator[Outcome[T, R]]:
        if slot.opening:
            # An idle worker may have been lost since the last phase; one that cannot start at all ends the run.
            if slot.attempts >= MAX_ATTEMPTS:
                raise SightlineError(f"workers die while they are starting ({describe(error)})") from None
            self._start(task, slots, slot.attempts)
            return
        log.warning("a worker was lost (attempt %d of %d); its shard is tried again", slot.attempts, MAX_ATTEMPTS)
        assert slot.item is not None, "an open worker has an item"
        if slot.attempts >= MAX_ATTEMPTS:
            lost = f"the worker died {slot.attempts} times on it"
            yield Outcome(item=slot.item, value=None, error=lost, attempts=slot.attempts)
        else:
            retries.append((slot.item, slot.attempts))
        self._start(task, slots)

    def _start(self, task: Task[T, R], slots: dict[Any, _Slot[T]], attempts: int = 0) -> None:
        """Give the task to an idle worker, or to a new one: starting a process and importing torch takes seconds."""
        gpus = self._options.gpus_per_worker if task.uses_gpu and _gpus() else 0.0
        idle = self._idle.get(gpus)
        actor = idle.pop() if idle else _ACTOR.options(num_gpus=gpus, num_cpus=1).remote()
        opened = actor.open.remote(task, _threads_per_worker(self._workers(task)))
        slots[opened] = _Slot(actor=actor, gpus=gpus, attempts=attempts + 1)

    def _workers(self, task: Task[Any, Any]) -> int:
        if self._options.workers:
            return self._options.workers
        cpus = int(ray.cluster_resources().get("CPU", 1))
        if task.uses_gpu and _gpus():
            return max(1, int(_gpus() / self._options.gpus_per_worker))
        return max(1, cpus // 2)


class _Worker:
    """An actor around an opened task; another task takes its place when the next phase begins."""

    def __init__(self) -> None:
        self._function: Callable[[Any], Any] | None = None

    def open(self, task: Task[Any, Any], threads: int) -> SightlineError | None:
        """Open a task; return why it could not be opened, or None."""
        self._function = None
        try:
            self._function = task.open(threads)
        except SightlineError as error:
            return error
        except Exception as error:  # noqa: BLE001 - told to the driver, which ends the run with it
            return SightlineError(describe(error))
        return None

    def run(self, item: Any, attempts: int) -> Outcome[Any, Any] | AccessError:
        """Carry out one item; an error that ends the run is returned in place of an outcome."""
        assert self._function is not None, "the driver stops when a worker did not open"
        try:
            return attempt(self._function, item, attempts)
        except AccessError as error:
            return error


_ACTOR: Any = ray.remote(_Worker)


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))


def _threads_per_worker(workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // workers)


def _connect(address: str) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    if not address:
        ray.init(**quiet)
        return
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RayError) as error:
        raise UserError(
            f"--address {address}", f"cannot be reached ({describe(error)})", "is the head running?"
        ) from None
