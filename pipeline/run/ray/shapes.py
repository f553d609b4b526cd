"""What each worker of a task asks Ray for, and how many threads it uses where it is placed. Pure arithmetic.

A worker asks for its share of a node: as many CPUs as there are for each worker when the wanted number of them is
placed. Ray then never places more workers on a node than its cores, its GPUs and its memory are shared out among.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.core.resources import Resources
from pipeline.run.ray.supply import Node, Supply

CPUS_PER_WORKER = 2
"""Of a worker that has no GPU: one thread decodes while another computes, and nodes of any size are filled."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What one worker asks for: CPUs, GPUs, bytes of memory."""

    cpus: float
    gpus: float = 0.0
    memory: int = 0

    def places(self, node: Node) -> int:
        """Return how many such workers a node has room for."""
        pairs = ((node.cpus, self.cpus), (node.gpus, self.gpus), (float(node.memory), float(self.memory)))
        return min((math.floor(has / wants + 1e-9) for has, wants in pairs if wants), default=0)

    def covers(self, wanted: Shape) -> bool:
        """Tell whether a worker that was started with this shape can do what the other one is wanted for."""
        return self.gpus == wanted.gpus and self.cpus <= wanted.cpus and self.memory >= wanted.memory


@dataclass(frozen=True, kw_only=True)
class Limits:
    """workers: how many there are to be, 0 for as many as there is room for. gpus: of each. cpus: of each, 0 for the
    share of its node.
    """

    workers: int = 0
    gpus: float = 0.0
    cpus: int = 0


def shape_of(resources: Resources, limits: Limits, supply: Supply) -> Shape:
    """Return the shape of the workers of a task on a cluster as it is now.

    Where no node has the memory of a worker, and none is to come, it asks for what the largest has.
    """
    suited = _suited(limits.gpus, supply.nodes)
    memory = resources.memory_with(limits.gpus)
    if suited and not supply.grows:
        memory = min(memory, max(node.memory for node in suited))
    if limits.cpus:
        return Shape(cpus=limits.cpus, gpus=limits.gpus, memory=memory)
    if not suited:
        # Of nodes that are yet to come nothing is known; where one has a GPU, the GPU decides how many share it.
        return Shape(cpus=1 if limits.gpus else CPUS_PER_WORKER, gpus=limits.gpus, memory=memory)
    return Shape(cpus=_cpus(limits, memory, suited), gpus=limits.gpus, memory=memory)


def _cpus(limits: Limits, memory: int, nodes: Sequence[Node]) -> float:
    """Return the most CPUs that each of the wanted workers can have."""
    if limits.gpus:
        least = min(node.cpus / math.floor(node.gpus / limits.gpus + 1e-9) for node in nodes)
        least = min(1.0, math.floor(least * 100) / 100)
    else:
        least = float(CPUS_PER_WORKER if not limits.workers and max(node.cpus for node in nodes) > 1 else 1)
    most = places(Shape(cpus=least, gpus=limits.gpus, memory=memory), nodes)
    wanted = min(limits.workers or most, most)
    for cpus in range(int(max(node.cpus for node in nodes)), int(least), -1):
        if wanted and places(Shape(cpus=cpus, gpus=limits.gpus, memory=memory), nodes) >= wanted:
            return cpus
    return least


def _suited(gpus: float, nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes on which there can be a worker with so many GPUs, or one without."""
    return [node for node in nodes if (node.gpus >= gpus if gpus else node.cpus >= 1)]


def places(shape: Shape, nodes: Iterable[Node]) -> int:
    """Return how many workers of a shape the nodes have room for."""
    return sum(shape.places(node) for node in nodes)


def threads_on(node: Node, cores: int, shape: Shape, limits: Limits) -> int:
    """Return how many threads a worker uses: the node's cores divided by the workers that it has room for.

    cores: that a process on the node may use. A node without CPUs, as Ray counts them, is meant for GPUs alone.
    """
    if limits.cpus:
        return limits.cpus
    cores = min(cores, int(node.cpus)) if node.cpus >= 1 else cores
    beside = min(max(1, shape.places(node)), limits.workers or cores)
    return max(1, cores // beside)
