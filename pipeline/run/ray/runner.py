"""The Ray runner: actors that each hold an opened task, fed one item at a time.

A worker that dies, or shows that it is broken, costs its item one attempt; so does an error of unknown cause. The
item goes to another worker, up to MAX_ATTEMPTS, and a fresh worker takes the place of a lost one. Workers ask for the
resources they need (see placement.py): those that wait for a place show an autoscaler what is wanted, more are used as
nodes arrive, and fewer do not stop a run. Items are pulled lazily, so a million shards are never queued. Pixels and
vectors never travel: a shard goes in, a record comes out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from pipeline.core.errors import SightlineError
from pipeline.core.types import Outcome
from pipeline.run.base import MAX_ATTEMPTS, Task, depth_of, name_of
from pipeline.run.ray.connection import Connection
from pipeline.run.ray.crew import Call, Member, Work, crew
from pipeline.run.ray.losses import Losses, reason_of
from pipeline.run.ray.metrics import DriverMetrics
from pipeline.run.ray.options import RayOptions
from pipeline.run.ray.placement import Demand, Placement, is_in_the_way, options_of
from pipeline.run.ray.shapes import Shape, places
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
        if not work.waiting:
            return
        try:
            while work.waiting or any(call.item is not None for call in calls.values()):
                self._recruit(task, calls, work)
                members = crew(calls)
                opening = sum(member.opening for member in members)
                self._metrics.crew(name_of(task), busy=len(members) - opening, opening=opening)
                self._placement.watch(members, self._demand)
                ready, _ = ray.wait(list(calls), num_returns=1, timeout=LOOK_SECONDS)
                for reference in ready:
                    yield from self._settle(reference, calls, task, work)
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
            if call.item is None and is_in_the_way(call.member, self._demand):
                ray.kill(call.member.actor)
                del calls[reference]
        while True:
            members = crew(calls)
            opening = sum(member.opening for member in members)
            wanted = self._placement.wanted(self._demand, len(members) - opening)
            if len(members) >= wanted or not work.waits_for_more_than(opening):
                return
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
            member.node = result.node
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
        else:
            if self._is_a_loss(member, result):
                self._lose(member, str(result.error))
            if result.fault in ("unknown", "worker") and call.attempts < MAX_ATTEMPTS:
                work.again(result.item, call.attempts)
            else:
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
        self._losses.lost(member.node, reason, self._demand.nodes, opening=member.opening)

    def _feed(self, member: Member, calls: dict[Any, Call[T]], work: Work[T], depth: int) -> None:
        """Give a worker as many items as it takes at a time; let it rest when there are none."""
        if member.lost:
            return
        if not member.calls:
            member.alone = False
        in_the_way = is_in_the_way(member, self._demand)
        while member.calls < depth and not member.alone and not in_the_way:
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
        if not member.calls and in_the_way:
            ray.kill(member.actor)
        elif not member.calls:
            self._idle.append((member.shape, member.actor))

    def _after_a_loss(
        self, call: Call[T], reason: str, calls: dict[Any, Call[T]], task: Task[T, R], work: Work[T]
    ) -> Iterator[Outcome[T, R]]:
        if call.item is None:
            # An idle worker may have been lost since the last phase; one that cannot start at all ends the run. Where
            # its node is known, that node may be to blame, see Losses.
            if call.attempts >= MAX_ATTEMPTS and not call.member.node:
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
        shape = self._demand.shape
        held, actor = self._idle.pop() if self._idle else (shape, self._new_actor(shape))
        opened = actor.open.remote(task, Seat(shape=shape, limits=self._demand.limits))
        calls[opened] = Call(member=Member(actor=actor, shape=held, calls=1), item=None, attempts=attempts + 1)

    def _new_actor(self, shape: Shape) -> Any:
        where = {"label_selector": self._losses.selector} if self._losses.excluded else {}
        return WORKER.options(**options_of(shape), **where).remote(shape.gpus)
