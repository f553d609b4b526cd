"""How many workers of what shape a phase asks Ray for, as the cluster changes.

Demand is shown by actors that wait to be placed, not by the autoscaler's `request_resources`: that is one standing
order for the whole cluster, which any other job overwrites and which outlives a driver that is killed. Actors belong
to their driver, and Ray drops them when the phase or the driver ends. There are never more than items wait for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.resources import Resources
from pipeline.run.ray.crew import Member
from pipeline.run.ray.options import RayOptions
from pipeline.run.ray.shapes import Limits, Shape, places, shape_of
from pipeline.run.ray.supply import Supply, look

log = logging.getLogger("sightline")

MOST_PENDING = 64
"""Workers beyond those that there is room for, of whom an autoscaler is shown at a time when no number is stated."""
FRESH_SECONDS = 1.0
"""For so long what was seen of the cluster counts."""
WAIT_SECONDS = 60.0
"""After so long without a single worker the run says what it waits for, and again each time as much has passed."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a task asks of the cluster now. shape: of each worker."""

    supply: Supply = field(default_factory=Supply)
    limits: Limits = field(default_factory=Limits)
    shape: Shape = field(default_factory=lambda: Shape(cpus=1))

    @property
    def nodes(self) -> set[str]:
        """Ids of the nodes that its workers can run on."""
        return {node.id for node in self.supply.nodes if node.gpus or not self.shape.gpus}


class Placement:
    """The demand of one runner. seen: returns what the cluster has, without some nodes; clock: as time.monotonic."""

    def __init__(
        self,
        options: RayOptions,
        seen: Callable[[Iterable[str]], Supply] = look,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options, self._seen, self._clock = options, seen, clock
        self._supply, self._looked = Supply(), -FRESH_SECONDS
        self._no_gpu_type = self._had_gpus = False
        self._said: set[str] = set()
        self._since = clock()

    def demand(self, resources: Resources, without: Iterable[str] = ()) -> Demand:
        """Return what a task asks for now. without: nodes that are left out. A UserError for GPUs that cannot be."""
        supply = self._look(without)
        limits = self._limits(resources, supply)
        return Demand(supply=supply, limits=limits, shape=self._shape(resources, supply, limits))

    def _look(self, without: Iterable[str]) -> Supply:
        now = self._clock()
        if now - self._looked >= FRESH_SECONDS:
            self._supply, self._looked = self._seen(without), now
            # Neither is forgotten: a run does not go over to CPUs when its GPUs are away for a while, and that no type
            # has GPUs is heard only as long as they are asked for.
            self._had_gpus |= bool(self._supply.gpus)
            self._no_gpu_type |= self._supply.no_gpu_type and not self._had_gpus
        return self._supply

    def _limits(self, resources: Resources, supply: Supply) -> Limits:
        options, asked = self._options, self._options.gpus_per_worker
        there = self._had_gpus or (supply.grows and not self._no_gpu_type)
        if not resources.gpu or asked == 0:
            gpus = 0.0
        elif asked is not None and not there and (self._no_gpu_type or not options.workers):
            raise UserError(
                f"--gpus-per-worker {asked:g}",
                "the cluster has no GPU" + (", and no type of node that it can add has one" if supply.grows else ""),
                "add GPU nodes, say with --workers how many are to come, or leave it out",
            )
        else:
            gpus = asked if asked is not None else float(there)
        if resources.gpu and self._no_gpu_type and not gpus and asked is None:
            self._say("no type of node that the cluster can add has a GPU: workers compute on CPUs")
        return Limits(workers=options.workers, gpus=gpus, cpus=options.cpus_per_worker)

    def _shape(self, resources: Resources, supply: Supply, limits: Limits) -> Shape:
        """Return what each worker of a task asks for; say where memory is what bounds them."""
        shape = shape_of(resources, limits, supply)
        wanted = resources.memory_with(limits.gpus)
        if shape.memory < wanted:
            self._say(
                f"a worker takes up to {_gb(wanted)} of memory, and no node has more than "
                f"{_gb(shape.memory)} for it: there is one at a time on a node, and it may be ended for lack of memory"
            )
        elif not supply.grows:
            room = places(shape, supply.nodes)
            without = places(shape_of(Resources(gpu=resources.gpu), limits, supply), supply.nodes)
            if 0 < room < min(without, limits.workers or without):
                count = "1 worker" if room == 1 else f"{room} workers"
                self._say(f"there is memory for {count} of up to {_gb(shape.memory)} each, and not for {without}")
        return shape

    def wanted(self, demand: Demand, there: int) -> int:
        """Return how many workers there should be. there: how many have started."""
        if self._options.workers:
            return self._options.workers
        room = places(demand.shape, demand.supply.nodes)
        return max(room, there) + MOST_PENDING if demand.supply.grows else max(1, room)

    def watch(self, members: list[Member], demand: Demand) -> None:
        """Say from time to time what is waited for, when no worker is there at all."""
        now = self._clock()
        if not members or not all(member.opening for member in members):
            self._since = now
        elif now - self._since >= WAIT_SECONDS:
            self._since = now
            log.warning("%s", self._waiting(len(members), demand.shape, demand.supply))

    def _waiting(self, count: int, shape: Shape, supply: Supply) -> str:
        wants = [f"{shape.cpus:g} CPUs", *([f"{shape.gpus:g} GPUs"] if shape.gpus else [])]
        wants += [f"{_gb(shape.memory)} of memory"] if shape.memory else []
        each = "" if count == 1 else " each"
        line = f"no worker has started yet: {count} ask for {', '.join(wants)}{each}"
        remedy = "; --gpus-per-worker 0 would run on CPUs" if shape.gpus else ""
        if not supply.grows:
            return f"{line}; other jobs hold them, or no node has as much{remedy}"
        if supply.starting:
            return f"{line}; the autoscaler is starting {supply.starting} nodes"
        return f"{line}; the autoscaler starts no node: see that a type of node has as much, and its limits{remedy}"

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            log.warning("%s", line)


def is_in_the_way(member: Member, demand: Demand) -> bool:
    """Tell whether a worker is in the place of one with GPUs, or waits for GPUs that will never come."""
    if member.shape.gpus == demand.shape.gpus:
        return False
    on_gpu_node = any(node.id == member.node and node.gpus for node in demand.supply.nodes)
    return member.opening or (on_gpu_node and demand.shape.gpus > 0)


def options_of(shape: Shape) -> dict[str, Any]:
    """Return a shape in the words of ray.remote's options."""
    asked: dict[str, Any] = {"num_cpus": shape.cpus, "num_gpus": shape.gpus}
    return asked | ({"memory": shape.memory} if shape.memory else {})


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
