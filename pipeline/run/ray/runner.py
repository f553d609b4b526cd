"""The Ray runner: actors that each hold an opened task, fed one item at a time.

A worker that dies, or shows that it is broken, costs its item one attempt; so does an error of unknown cause. The
item goes to another worker, up to MAX_ATTEMPTS, and a fresh worker takes the place of a lost one. So does one that
takes longer than its limit; stragglers are issued again near the end, and the first outcome counts. Workers are asked
for by the resources they need: those that cannot be placed yet show an autoscaler what is wanted, more are used as
nodes arrive, and fewer do not stop a run. Items are pulled lazily, so a million shards are never queued. Pixels and
vectors never travel: a shard goes in, a record comes out.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from pipeline.core.errors import SightlineError, UserError
from pipeline.core.types import Outcome
from pipeline.run.base import MAX_ATTEMPTS, Task, depth_of, limit_of, name_of, shown
from pipeline.run.ray.connection import Connection
from pipeline.run.ray.crew import Call, Member, Ticket, Work, crew, first_call
from pipeline.run.ray.losses import Losses, reason_of
from pipeline.run.ray.metrics import DriverMetrics
from pipeline.run.ray.stragglers import Pace, Speculation, drop, overdue
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
    speculation: Speculation = field(default_factory=Speculation)


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
        pace = Pace(self._options.speculation)
        self._dismiss(but=self._gpus_per_worker(task))
        try:
            while work.waiting or any(call.awaited for call in calls.values()):
                self._recruit(task, calls, work)
                members = crew(calls)
                opening = sum(member.opening for member in members)
                self._metrics.crew(name_of(task), busy=len(members) - opening, opening=opening)
                ready, _ = ray.wait(list(calls), num_returns=1, timeout=LOOK_SECONDS)
                for reference in ready:
                    yield from self._settle(reference, calls, task, work, pace)
                yield from self._watch(calls, task, work, pace)
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
        while work.exceeds(sum(member.opening for member in crew(calls))) and len(crew(calls)) < self._wanted(task):
            self._start(task, calls)

    def _settle(
        self, reference: Any, calls: dict[Any, Call[T]], task: Task[T, R], work: Work[T], pace: Pace
    ) -> Iterator[Outcome[T, R]]:
        member = calls[reference].member
        was_first = first_call(calls, member) is calls[reference]
        call = calls.pop(reference)
        member.calls -= 1
        following, now = first_call(calls, member), time.monotonic()
        if was_first and following is not None:
            following.since = now
        try:
            result = ray.get(reference)
        except RayError as error:
            # Dead, killed for its memory, out of reach, or unable to unpickle what it is sent: not the item's fault.
            self._lose(member, reason_of(error))
            yield from self._after_a_loss(call, reason_of(error), calls, task, work)
            return
        # What comes of an item that another worker has done counts for nothing.
        awaited = call.awaited or call.ticket is None
        if isinstance(result, SightlineError) and awaited:
            ray.kill(member.actor)
            raise result
        if isinstance(result, Opened):
            if result.error is not None and not result.broken:
                ray.kill(member.actor)
                raise result.error
            member.node = result.node
            if result.error is not None:
                self._lose(member, str(result.error))
                yield from self._after_a_loss(call, str(result.error), calls, task, work)
                return
            member.opening = False
        elif not isinstance(result, SightlineError):
            if self._is_a_loss(member, result):
                self._lose(member, str(result.error))
            failed = result.fault in ("unknown", "worker")
            if call.ticket is not None and awaited and (not failed or work.failed(call.ticket)):
                call.ticket.done = now
                if result.value is not None:
                    pace.note(result.item, max(now - call.since if was_first else 0, result.seconds / depth_of(task)))
                yield result
        self._feed(member, calls, work, depth_of(task))

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

    def _feed(self, member: Member, calls: dict[Any, Call[T]], work: Work[T], depth: int) -> None:
        """Give a worker as many items as it takes at a time; let it rest when there are none."""
        if member.lost:
            return
        if not member.calls:
            member.alone = False
        while member.calls < depth and not member.alone:
            # What has already cost a worker gets one for itself, and the last items are spread over all.
            if member.calls and (work.retry_is_next or not work.more_than(len(crew(calls)))):
                break
            following = work.take()
            if following is None:
                break
            attempts = following.attempts + 1
            member.alone = attempts > 1
            member.calls += 1
            reference = member.actor.run.remote(following.item, attempts)
            calls[reference] = Call(member=member, ticket=following, attempts=attempts, since=time.monotonic())
        if not member.calls:
            self._idle.setdefault(member.gpus, []).append(member.actor)

    def _after_a_loss(
        self, call: Call[T], reason: str, calls: dict[Any, Call[T]], task: Task[T, R], work: Work[T]
    ) -> Iterator[Outcome[T, R]]:
        if call.ticket is None:
            # An idle worker may have been lost since the last phase; one that cannot start at all ends the run.
            if call.attempts >= MAX_ATTEMPTS:
                raise SightlineError(f"workers die while they are starting ({reason})")
            self._start(task, calls, call.attempts)
            return
        if call.awaited and work.failed(call.ticket):
            tries = call.ticket.attempts
            yield _poison(call.ticket, f"the worker died {tries} times on it ({reason})")

    def _watch(self, calls: dict[Any, Call[T]], task: Task[T, R], work: Work[T], pace: Pace) -> Iterator[Outcome[T, R]]:
        """End calls that exceed their limits, and those whose items others have done; issue stragglers again."""
        now = time.monotonic()
        for call in list(overdue(calls, task, now)):
            if call.ticket is None or call.member.lost:
                continue
            exceeded = limit_of(task, call.ticket.item).exceeded
            self._lose(call.member, f"{shown(call.ticket.item)} {exceeded}")
            work.give_back(other for other in drop(calls, call.member) if other is not call)
            if call.awaited and work.failed(call.ticket):
                yield _poison(call.ticket, f"{exceeded}; it was tried {call.ticket.attempts} times")
        for call in list(pace.outlived(calls, now)):
            if not call.member.lost:
                call.member.lost = True
                ray.kill(call.member.actor)
                work.give_back(drop(calls, call.member))
        if not work.waiting:
            idle = max(0, self._wanted(task) - len(crew(calls)))
            for ticket, seconds in islice(pace.stragglers(calls, now), idle):
                log.warning("%s has taken %.0f s: it is given to another worker, too", shown(ticket.item), seconds)
                work.copy(ticket)

    def _start(self, task: Task[T, R], calls: dict[Any, Call[T]], attempts: int = 0) -> None:
        """Give the task to an idle worker, or to a new one: starting a process and importing torch takes seconds."""
        gpus = self._gpus_per_worker(task)
        idle = self._idle.get(gpus)
        actor = idle.pop() if idle else self._new_actor(gpus)
        opened = actor.open.remote(task, _threads_per_worker(self._wanted(task)))
        calls[opened] = Call(member=Member(actor=actor, gpus=gpus, calls=1), ticket=None, attempts=attempts + 1)

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


def _poison(ticket: Ticket[T], error: str) -> Outcome[T, Any]:
    """Return the outcome of an item that cost every worker that it was given to."""
    ticket.done = time.monotonic()
    return Outcome(item=ticket.item, value=None, error=error, fault="worker", attempts=ticket.attempts)


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))


def _threads_per_worker(workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // workers)
