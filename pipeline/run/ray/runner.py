"""The Ray runner: actors that each hold an opened task, fed one item at a time.

A worker that dies costs its item one attempt; the item goes to another worker, up to MAX_ATTEMPTS, and a fresh worker
takes the place. Workers are asked for by the resources they need: those that cannot be placed yet show an autoscaler
what is wanted, more are used as nodes arrive, and fewer do not stop a run. Items are pulled lazily, so a million shards
are never queued. Pixels and vectors never travel: a shard goes in, a record comes out.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayActorError, RayError

from pipeline.core.errors import AccessError, SightlineError, UserError
from pipeline.core.types import Outcome
from pipeline.run.base import MAX_ATTEMPTS, Task, attempt, describe
from pipeline.run.guard import check_cluster
from pipeline.run.ray.metrics import DriverMetrics, WorkerMetrics

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("sightline")

LOOK_SECONDS = 5.0
"""How often the cluster is asked whether there is room for more workers."""


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where and with what workers run. workers 0 means one per GPU, or one per two CPUs where there is no GPU.

    gpus_per_worker: None means 1 where there are GPUs; a number that the cluster can never give is a UserError.
    """

    address: str = ""
    workers: int = 0
    gpus_per_worker: float | None = None


@dataclass
class _Slot(Generic[T]):
    """One worker and what it is busy with."""

    actor: Any
    gpus: float
    item: T | None = None
    attempts: int = 0
    opening: bool = True


class _Work(Generic[T]):
    """Items that wait: those to be tried again first, then the rest, one of which is looked at ahead."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._next: list[T] = []
        self._retries: deque[tuple[T, int]] = deque()

    @property
    def waiting(self) -> bool:
        if not self._retries and not self._next:
            self._next = [item for item in (next(self._items, None),) if item is not None]
        return bool(self._retries or self._next)

    def take(self) -> tuple[T, int] | None:
        if not self.waiting:
            return None
        return self._retries.popleft() if self._retries else (self._next.pop(), 0)

    def again(self, item: T, attempts: int) -> None:
        self._retries.append((item, attempts))


class RayRunner:
    """See pipeline.run.base.Runner. Starts a private local Ray when no address is given."""

    name = "ray"

    def __init__(self, options: RayOptions) -> None:
        self._options = options
        self._idle: dict[float, list[Any]] = {}
        self._started = not ray.is_initialized()
        self._redirected = ExitStack()
        if self._started:
            # Ray tells on stdout what becomes of nodes; stdout is for results.
            self._redirected.enter_context(redirect_stdout(sys.stderr))
            # Usage statistics go to a third party, and the dashboard is an open port: both stay off.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                _connect(options.address)
            except BaseException:
                self._redirected.close()
                raise
        self._metrics = DriverMetrics()

    def map(self, task: Task[T, R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
        """Yield outcomes as workers finish; at most one item per worker is in flight."""
        work = _Work(items)
        slots: dict[Any, _Slot[T]] = {}
        self._dismiss(but=self._gpus_per_worker(task))
        try:
            while work.waiting or any(not slot.opening for slot in slots.values()):
                self._recruit(task, slots, work)
                opening = sum(slot.opening for slot in slots.values())
                self._metrics.crew(type(task).__name__, busy=len(slots) - opening, opening=opening)
                ready, _ = ray.wait(list(slots), num_returns=1, timeout=LOOK_SECONDS)
                for reference in ready:
                    yield from self._settle(reference, slots, task, work)
        finally:
            for slot in slots.values():
                ray.kill(slot.actor)

    def progress(self, phase: str, pending: int, seconds: float) -> None:
        """Export how far a phase is."""
        self._metrics.phase(phase, pending, seconds)

    def close(self) -> None:
        """Let the workers go, and shut Ray down if this runner started it."""
        self._dismiss()
        if self._started:
            ray.shutdown()
        self._redirected.close()

    def _dismiss(self, but: float | None = None) -> None:
        """Let idle workers go that hold other resources than are wanted: new ones could wait for them for ever."""
        for gpus in [gpus for gpus in self._idle if gpus != but]:
            for actor in self._idle.pop(gpus):
                ray.kill(actor)

    def _recruit(self, task: Task[T, R], slots: dict[Any, _Slot[T]], work: _Work[T]) -> None:
        """Start workers up to the number wanted now, while there is work for them."""
        while work.waiting and len(slots) < self._wanted(task):
            self._start(task, slots)

    def _settle(
        self, reference: Any, slots: dict[Any, _Slot[T]], task: Task[T, R], work: _Work[T]
    ) -> Iterator[Outcome[T, R]]:
        slot = slots.pop(reference)
        try:
            result = ray.get(reference)
        except RayActorError as error:
            # It may live and only be out of reach; what it goes on writing does no harm, but it holds a GPU.
            ray.kill(slot.actor)
            yield from self._after_a_loss(slot, error, slots, task, work)
            return
        except RayError as error:
            result = Outcome(item=slot.item, value=None, error=describe(error), attempts=slot.attempts)
        if isinstance(result, SightlineError):
            ray.kill(slot.actor)
            raise result
        if slot.opening:
            slot.opening = False
        else:
            yield result
        following = work.take()
        if following is None:
            self._idle.setdefault(slot.gpus, []).append(slot.actor)
            return
        slot.item, slot.attempts = following[0], following[1] + 1
        slots[slot.actor.run.remote(slot.item, slot.attempts)] = slot

    def _after_a_loss(
        self, slot: _Slot[T], error: RayActorError, slots: dict[Any, _Slot[T]], task: Task[T, R], work: _Work[T]
    ) -> Iterator[Outcome[T, R]]:
        if slot.opening:
            # An idle worker may have been lost since the last phase; one that cannot start at all ends the run.
            if slot.attempts >= MAX_ATTEMPTS:
                raise SightlineError(f"workers die while they are starting ({describe(error)})") from None
            log.warning("a worker was lost while it started; another takes its place")
            self._start(task, slots, slot.attempts)
            return
        log.warning("a worker was lost (attempt %d of %d); its shard is tried again", slot.attempts, MAX_ATTEMPTS)
        assert slot.item is not None, "an open worker has an item"
        if slot.attempts >= MAX_ATTEMPTS:
            lost = f"the worker died {slot.attempts} times on it"
            yield Outcome(item=slot.item, value=None, error=lost, attempts=slot.attempts)
        else:
            work.again(slot.item, slot.attempts)

    def _start(self, task: Task[T, R], slots: dict[Any, _Slot[T]], attempts: int = 0) -> None:
        """Give the task to an idle worker, or to a new one: starting a process and importing torch takes seconds."""
        gpus = self._gpus_per_worker(task)
        idle = self._idle.get(gpus)
        actor = idle.pop() if idle else _ACTOR.options(num_gpus=gpus, num_cpus=1).remote(gpus)
        opened = actor.open.remote(task, _threads_per_worker(self._wanted(task)))
        slots[opened] = _Slot(actor=actor, gpus=gpus, attempts=attempts + 1)

    def _gpus_per_worker(self, task: Task[Any, Any]) -> float:
        asked = self._options.gpus_per_worker
        if not task.uses_gpu or asked == 0:
            return 0.0
        if asked is not None and not _gpus() and not self._options.workers:
            raise UserError(
                f"--gpus-per-worker {asked:g}",
                "the cluster has no GPU",
                "add GPU nodes, say with --workers how many are to come, or leave it out",
            )
        if asked is not None:
            return asked
        return 1.0 if _gpus() else 0.0

    def _wanted(self, task: Task[Any, Any]) -> int:
        """Return how many workers there should be, by what the cluster has now."""
        if self._options.workers:
            return self._options.workers
        gpus = self._gpus_per_worker(task)
        if gpus:
            return max(1, int(_gpus() / gpus))
        return max(1, int(ray.cluster_resources().get("CPU", 1)) // 2)


class _Worker:
    """An actor around an opened task; another task takes its place when the next phase begins."""

    def __init__(self, gpus: float) -> None:
        if not gpus:
            # Ray hides no GPU from a process that asked for none, and torch would take the first one.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._function: Callable[[Any], Any] | None = None
        self._task = ""
        self._metrics = WorkerMetrics()

    def open(self, task: Task[Any, Any], threads: int) -> SightlineError | None:
        """Open a task; return why it could not be opened, or None."""
        self._function, self._task = None, type(task).__name__
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
            outcome = attempt(self._function, item, attempts)
        except AccessError as error:
            return error
        self._metrics.count(self._task, outcome)
        return outcome


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
        context = ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RayError) as error:
        raise UserError(
            f"--address {address}", f"cannot be reached ({describe(error)})", "is the head running?"
        ) from None
    try:
        check_cluster(context.dashboard_url or "", os.environ)
    except UserError:
        ray.shutdown()
        raise
