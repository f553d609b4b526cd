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
import torch
from ray.exceptions import RayActorError, RayError

from pipeline.core.errors import SightlineError, UserError
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
    item: T | None = None
    attempts: int = 0
    opening: bool = True


class RayRunner:
    """See pipeline.run.base.Runner. Starts a private local Ray when no address is given."""

    name = "ray"

    def __init__(self, options: RayOptions) -> None:
        self._options = options
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
            for slot in [self._new_slot(task) for _ in range(self._workers(task))]:
                slots[slot.actor.opened.remote()] = slot
            while slots:
                ready, _ = ray.wait(list(slots), num_returns=1)
                yield from self._settle(ready[0], slots, task, pending, retries)
        finally:
            for slot in slots.values():
                ray.kill(slot.actor)

    def close(self) -> None:
        """Shut Ray down if this runner started it."""
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
        if slot.opening:
            slot.opening = False
            if isinstance(result, str):
                ray.kill(slot.actor)
                raise UserError("worker", result, "correct the recipe or the source")
        else:
            yield result
        following = retries.popleft() if retries else (next(pending, None), 0)
        if following[0] is None:
            ray.kill(slot.actor)
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
            raise SightlineError(f"a worker died while it was starting ({describe(error)})") from None
        log.warning("a worker was lost (attempt %d of %d); its shard is tried again", slot.attempts, MAX_ATTEMPTS)
        assert slot.item is not None, "an open worker has an item"
        if slot.attempts >= MAX_ATTEMPTS:
            lost = f"the worker died {slot.attempts} times on it"
            yield Outcome(item=slot.item, value=None, error=lost, attempts=slot.attempts)
        else:
            retries.append((slot.item, slot.attempts))
        fresh: _Slot[T] = self._new_slot(task)
        slots[fresh.actor.opened.remote()] = fresh

    def _new_slot(self, task: Task[T, R]) -> _Slot[T]:
        gpus = self._options.gpus_per_worker if task.uses_gpu and _gpus() else 0
        actor = _Worker.options(num_gpus=gpus, num_cpus=1).remote(task, _threads_per_worker(self._workers(task)))
        return _Slot(actor=actor)

    def _workers(self, task: Task[Any, Any]) -> int:
        if self._options.workers:
            return self._options.workers
        cpus = int(ray.cluster_resources().get("CPU", 1))
        if task.uses_gpu and _gpus():
            return max(1, int(_gpus() / self._options.gpus_per_worker))
        return max(1, cpus // 2)


@ray.remote
class _Worker:
    """An actor around an opened task."""

    def __init__(self, task: Task[Any, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self._error: str | None = None
        self._function: Callable[[Any], Any] | None = None
        try:
            self._function = task.open()
        except Exception as error:  # noqa: BLE001 - told to the driver, which ends the run with it
            self._error = describe(error)

    def opened(self) -> str | None:
        """Return why the task could not be opened, or None."""
        return self._error

    def run(self, item: Any, attempts: int) -> Outcome[Any, Any]:
        """Carry out one item."""
        assert self._function is not None, "the driver stops when a worker did not open"
        return attempt(self._function, item, attempts)


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
