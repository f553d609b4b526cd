"""What workers ask for and how many threads they use, over a table of clusters. No Ray is started."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pipeline.core.resources import Resources
from pipeline.run.ray.shapes import Limits, Shape, places, shape_of, threads_on
from pipeline.run.ray.supply import Node, Supply

GB = 10**9


def nodes(count: int, *, cpus: float = 0.0, gpus: float = 0.0, memory: int = 1000 * GB) -> tuple[Node, ...]:
    return tuple(Node(id=f"{cpus}-{gpus}-{number}", cpus=cpus, gpus=gpus, memory=memory) for number in range(count))


HEAD = nodes(1, cpus=2)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A cluster and a task; what each worker asks for, how many there is room for, threads on each sort of node."""

    nodes: tuple[Node, ...]
    limits: Limits
    cpus: float
    room: int
    threads: tuple[int, ...]
    memory: int = 3 * GB


CASES = {
    "8 x (1 GPU, 8 cores), head of 2 cores": Case(
        nodes=(*HEAD, *nodes(8, cpus=8, gpus=1)), limits=Limits(gpus=1), cpus=8, room=8, threads=(8,)
    ),
    "16 x (8 GPUs, 192 cores)": Case(
        nodes=nodes(16, cpus=192, gpus=8), limits=Limits(gpus=1), cpus=24, room=128, threads=(24,)
    ),
    "two workers on each GPU": Case(
        nodes=nodes(2, cpus=16, gpus=2), limits=Limits(gpus=0.5), cpus=4, room=8, threads=(4,)
    ),
    "GPU nodes of two sorts": Case(
        nodes=(*nodes(2, cpus=8, gpus=1), *nodes(1, cpus=16, gpus=8)),
        limits=Limits(gpus=1),
        cpus=2,
        room=10,
        threads=(8, 2),
    ),
    "more GPUs than cores": Case(nodes=nodes(1, cpus=4, gpus=8), limits=Limits(gpus=1), cpus=0.5, room=8, threads=(1,)),
    "GPU nodes that give Ray no CPU": Case(
        nodes=nodes(3, cpus=0, gpus=2), limits=Limits(gpus=1), cpus=0, room=6, threads=(4,)
    ),
    "one worker has a node of 8 GPUs for itself": Case(
        nodes=nodes(1, cpus=192, gpus=8), limits=Limits(gpus=1, workers=1), cpus=192, room=1, threads=(192,)
    ),
    "a laptop of 2 cores": Case(nodes=nodes(1, cpus=2), limits=Limits(), cpus=2, room=1, threads=(2,)),
    "a single CPU": Case(nodes=nodes(1, cpus=1), limits=Limits(), cpus=1, room=1, threads=(1,)),
    "CPU nodes of two sorts": Case(
        nodes=(*nodes(2, cpus=64), *nodes(1, cpus=5)), limits=Limits(), cpus=2, room=66, threads=(2, 2)
    ),
    "four workers for two CPU nodes": Case(
        nodes=nodes(2, cpus=32), limits=Limits(workers=4), cpus=16, room=4, threads=(16,)
    ),
    "more workers than CPUs": Case(nodes=nodes(1, cpus=2), limits=Limits(workers=3), cpus=1, room=2, threads=(1,)),
    "memory for two workers on 16 cores": Case(
        nodes=nodes(1, cpus=16, memory=7 * GB), limits=Limits(), cpus=8, room=2, threads=(8,)
    ),
    "memory for one worker of a node of 4 GPUs": Case(
        nodes=nodes(2, cpus=16, gpus=4, memory=5 * GB), limits=Limits(gpus=1), cpus=16, room=2, threads=(16,)
    ),
    "a stated number of CPUs": Case(
        nodes=nodes(4, cpus=16, gpus=1), limits=Limits(gpus=1, cpus=6), cpus=6, room=4, threads=(6,)
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_workers_share_out_the_cores_of_their_node(case: Case) -> None:
    supply = Supply(nodes=case.nodes)
    shape = shape_of(Resources(gpu=bool(case.limits.gpus), memory=case.memory), case.limits, supply)
    assert (shape.cpus, shape.gpus, shape.memory) == (case.cpus, case.limits.gpus, case.memory)
    assert places(shape, case.nodes) == case.room
    used = {node.id.rsplit("-", 1)[0]: node for node in case.nodes if shape.places(node)}
    # A node that gives Ray no CPU has 8 cores here.
    found = tuple(threads_on(node, int(node.cpus) or 8, shape, case.limits) for node in used.values())
    assert found == case.threads
    for node in used.values():
        beside = min(shape.places(node), case.limits.workers or 1000)
        taken = beside * threads_on(node, int(node.cpus) or 8, shape, case.limits)
        assert taken <= max(beside, int(node.cpus) or 8), "threads of all workers of a node fit its cores"


def test_a_container_s_quota_counts_not_the_cores_of_its_machine() -> None:
    (node,) = nodes(1, cpus=64, gpus=1)
    shape = shape_of(Resources(gpu=True), Limits(gpus=1), Supply(nodes=(node,)))
    assert threads_on(node, 4, shape, Limits(gpus=1)) == 4
    assert threads_on(node, 64, shape, Limits(gpus=1, cpus=6)) == 6, "what is stated counts"


def test_where_no_node_has_the_memory_of_a_worker_it_asks_for_all_that_the_largest_has() -> None:
    small = (*nodes(1, cpus=4, memory=2 * GB), *nodes(1, cpus=4, memory=GB))
    shape = shape_of(Resources(memory=3 * GB), Limits(), Supply(nodes=small))
    assert (shape.memory, places(shape, small)) == (2 * GB, 1)
    larger_ones_may_come = shape_of(Resources(memory=3 * GB), Limits(), Supply(nodes=small, grows=True))
    assert larger_ones_may_come.memory == 3 * GB


def test_of_nodes_that_are_yet_to_come_nothing_is_presumed_but_a_gpu() -> None:
    empty = Supply(nodes=nodes(1, cpus=0), grows=True)
    assert shape_of(Resources(gpu=True), Limits(gpus=1), empty) == Shape(cpus=1, gpus=1)
    assert shape_of(Resources(), Limits(), empty) == Shape(cpus=2)


def test_an_idle_worker_goes_on_where_it_holds_what_is_wanted() -> None:
    held = Shape(cpus=2, gpus=1, memory=3 * GB)
    assert held.covers(Shape(cpus=4, gpus=1, memory=GB))
    assert not held.covers(Shape(cpus=1, gpus=1, memory=GB)), "its CPUs would be missing elsewhere"
    assert not held.covers(Shape(cpus=2, gpus=0, memory=GB))
    assert not held.covers(Shape(cpus=2, gpus=1, memory=4 * GB))
