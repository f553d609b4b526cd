"""The Ray runner: actors that each hold an opened task, fed one item at a time.

A worker that dies, or shows that it is broken, costs its item one attempt; so does an error of unknown cause. The
item goes to another worker, up to MAX_ATTEMPTS, and a fresh worker takes the place of a lost one. So does one that
takes longer than its limit; stragglers are issued again near the end, and the first outcome counts. Workers ask for the
resources they need (see placement.py): those that wait for a place show an autoscaler what is wanted, more are used as
nodes arrive, and fewer do not stop a run. Items are pulled lazily, so a million shards are never queued. Pixels and
vectors never travel: a shard goes in, a record comes out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from pipeline.core.errors import SightlineError
from pipeline.core.types import Outcome
from pipeline.run.base import MAX_ATTEMPTS, Task, limit_of, name_of, shown
from pipeline.run.ray.connection import Connection
from pipeline.run.ray.crew import Call, Member, Ticket, Work, crew, first_call
from pipeline.run.ray.losses import Losses, reason_of
from pipeline.run.ray.metrics import DriverMetrics
from pipeline.run.ray.options import RayOptions
from pipeline.run.ray.placement import Demand, Placement, is_in_the_way, options_of
from pipeline.run.ray.shapes import Shape, places
from pipeline.run.ray.stragglers import Pace, drop, overdue
from pipeline.run.ray.worker import WORKER, Opened, Seat

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("sightline")

FAILURES_IN_A_ROW = 2
"""Items in a row that a worker may fail for no known reason before it is taken for broken."""
LOOK_SECONDS = 5.0
"""How often the cluster is asked whether there is room for more workers."""


class RayRunner:
    """See pipeline.run.base.Runner. Starts a private local Ray when no address is given."""

    name = "ray"

    def __init__(self, options: RayOptions) -> None:
        self._options = options
        self._idle: list[tuple[Shape, Any]] = []
        self._connection = Connection(options.address)
        self._metrics = DriverMetrics()
        self._losses = Losses()
        self._placement, self._demand = Placement(options), Demand()

    def map(self, task: Task[T, R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
        """Yield outcomes as workers finish; at most `depth` items per worker are in flight."""
        work = Work(items)
        calls: dict[Any, Call[T]] = {}
        pace = Pace(self._options.speculation)
        if not work.waiting:
            return
        try:
            while work.waiting or any(call.awaited for call in calls.values()):
                self._recruit(task, calls, work)
                members = crew(calls)
                opening = sum(member.opening for member in members)
                self._metrics.crew(name_of(task), busy=len(members) - opening, opening=opening)
                self._placement.watch(members, self._demand)
                ready, _ = ray.wait(list(calls), num_returns=1, timeout=LOOK_SECONDS)
                for reference in ready:
                    yield from self._settle(reference, calls, task, work, pace)
                yield from self._watch(calls, task, work, pace)
        finally:
            for member in crew(calls):
                ray.kill(member.actor)

    def room(self, task: Task[Any, Any]) -> int:
        """Return how many workers the nodes that are there have room for, or what is stated."""
        demand = self._placement.demand(task.resources, self._losses.excluded)
        return self._options.workers or max(1, places(demand.shape, demand.supply.nodes))

    def progress(self, phase: str, pending: int, seconds: float) -> None:
        """Export how far a phase is."""
        self._metrics.phase(phase, pending, seconds)

    def close(self) -> None:
        """Let the workers go, and shut Ray down if nobody else in this process uses what was started."""
        self._dismiss()
        self._connection.close()

    def _dismiss(self, but: Shape | None = None) -> None:
        """Let idle workers go that hold other resources than are wanted: new ones could wait for them for ever."""
        resting, self._idle = self._idle, []
        for shape, actor in resting:
            if but is not None and shape.covers(but):
                self._idle.append((shape, actor))
            else:
                ray.kill(actor)

    def _recruit(self, task: Task[T, R], calls: dict[Any, Call[T]], work: Work[T]) -> None:
        """Start workers up to the number wanted now, as long as there is an item for each that is starting."""
        self._demand = self._placement.demand(task.resources, self._losses.excluded)
        self._dismiss(but=self._demand.shape)
        for reference, call in list(calls.items()):
            if call.ticket is None and is_in_the_way(call.member, self._demand):
                ray.kill(call.member.actor)
                del calls[reference]
        while True:
            members = crew(calls)
            opening = sum(member.opening for member in members)
            wanted = self._placement.wanted(self._demand, len(members) - opening)
            if len(members) >= wanted or not work.exceeds(opening):
                return
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
            member.node, member.depth = result.node, result.depth
            if result.error is not None:
                self._lose(member, str(result.error))
                yield from self._after_a_loss(call, str(result.error), calls, task, work)
                return
            if member.node in self._losses.excluded:
                # It waited for a place before the node was left out.
                ray.kill(member.actor)
                self._start(task, calls)
                return
            self._losses.opened(member.node)
            member.opening = False
        elif not isinstance(result, SightlineError):
            if self._is_a_loss(member, result):
                self._lose(member, str(result.error))
            failed = result.fault in ("unknown", "worker")
            if call.ticket is not None and awaited and (not failed or work.failed(call.ticket)):
                call.ticket.done = now
                if result.value is not None:
                    pace.note(result.item, max(now - call.since if was_first else 0, result.seconds / member.depth))
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
        self._losses.lost(member.node, reason, self._demand.nodes, opening=member.opening)

    def _feed(self, member: Member, calls: dict[Any, Call[T]], work: Work[T]) -> None:
        """Give a worker as many items as it takes at a time; let it rest when there are none."""
        if member.lost:
            return
        if not member.calls:
            member.alone = False
        in_the_way = is_in_the_way(member, self._demand)
        while member.calls < member.depth and not member.alone and not in_the_way:
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
        if not member.calls and in_the_way:
            ray.kill(member.actor)
        elif not member.calls:
            self._idle.append((member.shape, member.actor))

    def _after_a_loss(
        self, call: Call[T], reason: str, calls: dict[Any, Call[T]], task: Task[T, R], work: Work[T]
    ) -> Iterator[Outcome[T, R]]:
        if call.ticket is None:
            # An idle worker may have been lost since the last phase; one that cannot start at all ends the run. Where
            # its node is known, that node may be to blame, see Losses.
            if call.attempts >= MAX_ATTEMPTS and not call.member.node:
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
            idle = max(0, self.room(task) - len(crew(calls)))
            for ticket, seconds in islice(pace.stragglers(calls, now), idle):
                log.warning("%s has taken %.0f s: it is given to another worker, too", shown(ticket.item), seconds)
                work.copy(ticket)

    def _start(self, task: Task[T, R], calls: dict[Any, Call[T]], attempts: int = 0) -> None:
        """Give the task to an idle worker, or to a new one: starting a process and importing torch takes seconds."""
        shape = self._demand.shape
        held, actor = self._idle.pop() if self._idle else (shape, self._new_actor(shape))
        opened = actor.open.remote(task, Seat(shape=shape, limits=self._demand.limits))
        calls[opened] = Call(member=Member(actor=actor, shape=held, calls=1), ticket=None, attempts=attempts + 1)

    def _new_actor(self, shape: Shape) -> Any:
        where = {"label_selector": self._losses.selector} if self._losses.excluded else {}
        return WORKER.options(**options_of(shape), **where).remote(shape.gpus)


def _poison(ticket: Ticket[T], error: str) -> Outcome[T, Any]:
    """Return the outcome of an item that cost every worker that it was given to."""
    ticket.done = time.monotonic()
    return Outcome(item=ticket.item, value=None, error=error, fault="worker", attempts=ticket.attempts)
