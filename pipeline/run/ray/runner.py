"""The Ray runner: actors that each hold an opened task, fed one item at a time.

A worker that dies, or shows that it is broken, costs its item one attempt; so does an error of unknown cause. The
item goes to another worker, up to MAX_ATTEMPTS, and a fresh worker takes the place of a lost one. Workers are asked
for by the resources they need: those that cannot be placed yet show an autoscaler what is wanted, more are used as
nodes arrive, and fewer do not stop a run. Items are pulled lazily, so a million shards are never queued. Pixels and
vectors never travel: a shard goes in, a record comes out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from pipeline.core.errors import SightlineError, UserError
from pipeline.core.types import Outcome
from pipeline.run.base import MAX_ATTEMPTS, Task, name_of
from pipeline.run.ray.connection import Connection
from pipeline.run.ray.crew import Call, Member, Work, crew
from pipeline.run.ray.losses import Losses, reason_of
from pipeline.run.ray.metrics import DriverMetrics
from pipeline.run.ray.worker import WORKER, Opened

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("sightline")

FAILURES_IN_A_ROW = 2
"""Items in a row that a worker may fail for no known reason before it is taken for broken."""
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


class RayRunner:
    """See pipeline.run.base.Runner. Starts a private local Ray when no address is given."""

    name = "ray"

    def __init__(self, options: RayOptions) -> None:
        self._options = options
        self._idle: dict[float, list[Any]] = {}
        self._connection = Connection(options.address)
        self._metrics = DriverMetrics()
        self._losses = Losses()

    def map(self, task: Task[T, R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
        """Yield outcomes as workers finish; at most `depth` items per worker are in flight."""
        work = Work(items)
        calls: dict[Any, Call[T]] = {}
        self._dismiss(but=self._gpus_per_worker(task))
        try:
            while work.waiting or any(call.item is not None for call in calls.values()):
                self._recruit(task, calls, work)
                members = crew(calls)
                opening = sum(member.opening for member in members)
                self._metrics.crew(name_of(task), busy=len(members) - opening, opening=opening)
                ready, _ = ray.wait(list(calls), num_returns=1, timeout=LOOK_SECONDS)
                for reference in ready:
                    yield from self._settle(reference, calls, task, work)
        finally:
            for member in crew(calls):
                ray.kill(member.actor)

    def progress(self, phase: str, pending: int, seconds: float) -> None:
        """Export how far a phase is."""
        self._metrics.phase(phase, pending, seconds)

    def close(self) -> None:
        """Let the workers go, and shut Ray down if nobody else in this process uses what was started."""
        self._dismiss()
        self._connection.close()

    def _dismiss(self, but: float | None = None) -> None:
        """Let idle workers go that hold other resources than are wanted: new ones could wait for them for ever."""
        for gpus in [gpus for gpus in self._idle if gpus != but]:
            for actor in self._idle.pop(gpus):
                ray.kill(actor)

    def _recruit(self, task: Task[T, R], calls: dict[Any, Call[T]], work: Work[T]) -> None:
        """Start workers up to the number wanted now, while there is work for them."""
        while work.waiting and len(crew(calls)) < self._wanted(task):
            self._start(task, calls)

    def _settle(
        self, reference: Any, calls: dict[Any, Call[T]], task: Task[T, R], work: Work[T]
    ) -> Iterator[Outcome[T, R]]:
        call = calls.pop(reference)
        member = call.member
        member.calls -= 1
        try:
            result = ray.get(reference)
        except RayError as error:
            # Dead, killed for its memory, out of reach, or unable to unpickle what it is sent: not the item's fault.
            self._lose(member, reason_of(error))
            yield from self._after_a_loss(call, reason_of(error), calls, task, work)
            return
        if isinstance(result, SightlineError):
            ray.kill(member.actor)
            raise result
        if isinstance(result, Opened):
            if result.error is not None and not result.broken:
                ray.kill(member.actor)
                raise result.error
            member.node, member.depth = result.node, result.depth
            if result.error is not None:
                self._lose(member, str(result.error))
                yield from self._after_a_loss(call, str(result.error), calls, task, work)
                return
            member.opening = False
        else:
            if self._is_a_loss(member, result):
                self._lose(member, str(result.error))
            if result.fault in ("unknown", "worker") and call.attempts < MAX_ATTEMPTS:
                work.again(result.item, call.attempts)
            else:
                yield result
        self._feed(member, calls, work)

    def _is_a_loss(self, member: Member, outcome: Outcome[Any, Any]) -> bool:
        """Tell whether an outcome shows that its worker is broken: by its error, or by one such after the other."""
        if outcome.fault in ("", "item"):
            member.failures = 0
            self._losses.finished(member.node)
            return False
        member.failures += 1
        return outcome.fault == "worker" or member.failures >= FAILURES_IN_A_ROW

    def _lose(self, member: Member, reason: str) -> None:
        """Part with a worker for good; calls that it has under way come back as lost, too."""
        if member.lost:
            return
        member.lost = True
        # It may live and only be out of reach; what it goes on writing does no harm, but it holds a GPU.
        ray.kill(member.actor)
        log.warning("a worker was lost%s: %s", " while it started" if member.opening else "", reason)
        self._losses.lost(member.node, reason, {node["NodeID"] for node in ray.nodes() if node["Alive"]})

    def _feed(self, member: Member, calls: dict[Any, Call[T]], work: Work[T]) -> None:
        """Give a worker as many items as it takes at a time; let it rest when there are none."""
        if member.lost:
            return
        if not member.calls:
            member.alone = False
        while member.calls < member.depth and not member.alone:
            # What has already cost a worker gets one for itself, and the last items are spread over all.
            if member.calls and (work.retry_is_next or not work.more_than(len(crew(calls)))):
                break
            following = work.take()
            if following is None:
                break
            item, attempts = following
            member.alone = attempts > 0
            member.calls += 1
            reference = member.actor.run.remote(item, attempts + 1)
            calls[reference] = Call(member=member, item=item, attempts=attempts + 1)
        if not member.calls:
            self._idle.setdefault(member.gpus, []).append(member.actor)

    def _after_a_loss(
        self, call: Call[T], reason: str, calls: dict[Any, Call[T]], task: Task[T, R], work: Work[T]
    ) -> Iterator[Outcome[T, R]]:
        if call.item is None:
            # An idle worker may have been lost since the last phase; one that cannot start at all ends the run.
            if call.attempts >= MAX_ATTEMPTS:
                raise SightlineError(f"workers die while they are starting ({reason})")
            self._start(task, calls, call.attempts)
            return
        if call.attempts >= MAX_ATTEMPTS:
            lost = f"the worker died {call.attempts} times on it ({reason})"
            yield Outcome(item=call.item, value=None, error=lost, fault="worker", attempts=call.attempts)
        else:
            work.again(call.item, call.attempts)

    def _start(self, task: Task[T, R], calls: dict[Any, Call[T]], attempts: int = 0) -> None:
        """Give the task to an idle worker, or to a new one: starting a process and importing torch takes seconds."""
        gpus = self._gpus_per_worker(task)
        idle = self._idle.get(gpus)
        actor = idle.pop() if idle else self._new_actor(gpus)
        opened = actor.open.remote(task, _threads_per_worker(self._wanted(task)))
        calls[opened] = Call(member=Member(actor=actor, gpus=gpus, calls=1), item=None, attempts=attempts + 1)

    def _new_actor(self, gpus: float) -> Any:
        where = {"label_selector": self._losses.selector} if self._losses.excluded else {}
        return WORKER.options(num_gpus=gpus, num_cpus=1, **where).remote(gpus)

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


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))


def _threads_per_worker(workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // workers)
