"""How demand follows a cluster that changes, seen through a fake one. No Ray is started."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from pipeline.core.errors import UserError
from pipeline.core.resources import Resources
from pipeline.run.ray import RayOptions
from pipeline.run.ray.crew import Member, Ticket, Work
from pipeline.run.ray.placement import MOST_PENDING, WAIT_SECONDS, Placement, is_in_the_way
from pipeline.run.ray.shapes import Shape
from pipeline.run.ray.supply import Node, Supply, by_reply, by_status, lacks_gpu_type

GB = 10**9
GPU_NODE = Node(id="gpu", cpus=8, gpus=1, memory=30 * GB)
CPU_NODE = Node(id="cpu", cpus=4, memory=30 * GB)
ON_GPU = Resources(gpu=True, memory=3 * GB)


class Cluster:
    """What is seen of a cluster, and a clock that a test turns."""

    def __init__(self, *nodes: Node, grows: bool = False) -> None:
        self.supply, self.now = Supply(nodes=nodes, grows=grows), 0.0

    def look(self, without: Iterable[str]) -> Supply:
        left = set(without)
        return replace(self.supply, nodes=tuple(node for node in self.supply.nodes if node.id not in left))

    def becomes(self, *nodes: Node, **more: Any) -> None:
        self.supply = replace(self.supply, nodes=nodes, **more)
        self.now += 10

    def placement(self, **options: Any) -> Placement:
        return Placement(RayOptions(**options), self.look, lambda: self.now)


def member(shape: Shape, node: str = "") -> Member:
    return Member(actor=None, shape=shape, node=node, opening=not node)


def test_where_an_autoscaler_may_add_nodes_a_gpu_task_asks_for_gpus_before_there_are_any() -> None:
    cluster = Cluster(Node(id="head"), grows=True)
    one = cluster.placement()
    first = one.demand(ON_GPU)
    assert first.shape == Shape(cpus=1, gpus=1, memory=3 * GB)
    assert one.wanted(first, 0) == MOST_PENDING
    cluster.becomes(Node(id="head"), *(replace(GPU_NODE, id=str(number)) for number in range(3)))
    later = one.demand(ON_GPU)
    assert later.shape == Shape(cpus=8, gpus=1, memory=3 * GB)
    assert one.wanted(later, 3) == 3 + MOST_PENDING, "more are asked for as long as items wait"
    stated = cluster.placement(workers=5)
    assert stated.wanted(stated.demand(ON_GPU), 3) == 5


def test_tasks_without_a_gpu_and_runs_that_want_none_ask_for_none() -> None:
    cluster = Cluster(GPU_NODE, grows=True)
    assert cluster.placement().demand(Resources()).shape.gpus == 0
    assert cluster.placement(gpus_per_worker=0.0).demand(ON_GPU).shape.gpus == 0


def test_a_cluster_of_fixed_size_without_gpus_computes_on_cpus_and_shows_no_demand_beyond_its_room() -> None:
    one = Cluster(CPU_NODE).placement()
    demand = one.demand(ON_GPU)
    assert (demand.shape.gpus, one.wanted(demand, 0)) == (0, 2)


def test_gpus_that_cannot_come_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="the cluster has no GPU;"):
        Cluster(CPU_NODE).placement(gpus_per_worker=1.0).demand(ON_GPU)
    assert Cluster(CPU_NODE).placement(gpus_per_worker=1.0, workers=2).demand(ON_GPU).shape.gpus == 1
    cluster = Cluster(CPU_NODE, grows=True)
    cluster.becomes(CPU_NODE, no_gpu_type=True)
    with pytest.raises(UserError, match="no type of node that it can add has one"):
        cluster.placement(gpus_per_worker=1.0, workers=2).demand(ON_GPU)


def test_when_no_type_of_node_has_a_gpu_the_run_says_so_once_and_stays_on_cpus(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster(CPU_NODE, grows=True)
    one = cluster.placement()
    waits = member(one.demand(ON_GPU).shape)
    assert waits.shape.gpus == 1
    cluster.becomes(CPU_NODE, no_gpu_type=True)
    demand = one.demand(ON_GPU)
    assert demand.shape.gpus == 0
    assert is_in_the_way(waits, demand), "who waits for a GPU is let go"
    cluster.becomes(CPU_NODE, no_gpu_type=False)
    assert one.demand(ON_GPU).shape.gpus == 0, "it is heard only while GPUs are asked for"
    assert [record.message for record in caplog.records] == [
        "no type of node that the cluster can add has a GPU: workers compute on CPUs"
    ]


def test_a_run_does_not_go_over_to_cpus_when_its_gpus_are_away() -> None:
    cluster = Cluster(CPU_NODE, GPU_NODE)
    one = cluster.placement()
    assert one.demand(ON_GPU).shape.gpus == 1
    cluster.becomes(CPU_NODE)
    assert one.demand(ON_GPU).shape.gpus == 1


def test_a_worker_without_a_gpu_never_holds_the_place_of_one_with() -> None:
    cluster = Cluster(CPU_NODE)
    one = cluster.placement()
    before = one.demand(ON_GPU).shape
    cluster.becomes(CPU_NODE, GPU_NODE)
    demand = one.demand(ON_GPU)
    assert is_in_the_way(member(before, "gpu"), demand)
    assert is_in_the_way(member(before), demand), "it might be placed there"
    assert not is_in_the_way(member(before, "cpu"), demand), "there it is in nobody's way"
    assert not is_in_the_way(member(demand.shape, "gpu"), demand)


def test_memory_makes_workers_fewer_and_never_none(caplog: pytest.LogCaptureFixture) -> None:
    one = Cluster(Node(id="laptop", cpus=8, memory=4 * GB)).placement()
    demand = one.demand(Resources(memory=3 * GB))
    assert (one.wanted(demand, 0), demand.shape.cpus) == (1, 8)
    tiny = Cluster(Node(id="laptop", cpus=8, memory=2 * GB)).placement()
    demand = tiny.demand(Resources(memory=3 * GB))
    assert (tiny.wanted(demand, 0), demand.shape.memory) == (1, 2 * GB)
    first, second = (record.message for record in caplog.records)
    assert first == "there is memory for 1 worker of up to 3.0 GB each, and not for 4"
    assert "takes up to 3.0 GB of memory, and no node has more than 2.0 GB for it" in second


def test_a_run_that_waits_for_its_first_worker_says_what_for(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(Node(id="head"), grows=True)
    one = cluster.placement()
    demand = one.demand(ON_GPU)
    waiting = [member(demand.shape)] * 3
    one.watch(waiting, demand)
    cluster.now += WAIT_SECONDS
    one.watch(waiting, demand)
    cluster.now += WAIT_SECONDS / 2
    one.watch(waiting, demand)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "3 ask for 1 CPUs, 1 GPUs, 3.0 GB of memory each; the autoscaler starts no node" in caplog.text
    assert "--gpus-per-worker 0" in caplog.text
    one.watch([*waiting, member(demand.shape, "gpu")], demand)
    cluster.now += WAIT_SECONDS / 2
    one.watch(waiting, demand)
    assert len(caplog.records) == 1, "a worker was there meanwhile"


def test_items_that_wait_bound_the_workers_that_start() -> None:
    work = Work(iter(range(3)))
    assert [work.exceeds(count) for count in range(5)] == [True, True, True, False, False]
    assert not work.failed(Ticket(7)), "it is tried again"
    assert [work.exceeds(count) for count in range(5)] == [True, True, True, True, False]


def status(mapping: dict[str, str], **more: Any) -> bytes:
    return json.dumps({"autoscaler_report": {"node_type_mapping": mapping, "active_nodes": {}, **more}}).encode()


def test_the_first_autoscaler_is_told_from_the_monitor_of_a_cluster_started_by_hand() -> None:
    assert by_status(None) == (False, 0)
    assert by_status(b"{}") == (False, 0)
    assert by_status(status({"10.0.0.1": "node_ab12", "10.0.0.2": "node_cd34"})) == (False, 0)
    grows = status({"10.0.0.1": "head"}, pending_launches={"gpu": 3}, pending_nodes=[["10.0.0.2", "gpu", "setting-up"]])
    assert by_status(grows) == (True, 4)


def test_the_second_autoscaler_says_what_no_node_type_has() -> None:
    reply = GetClusterStatusReply()
    assert (by_reply(reply), lacks_gpu_type(reply)) == (False, False)
    reply.cluster_resource_state.node_states.add(ray_node_type_name="headgroup")
    assert not by_reply(reply), "names alone do not make an autoscaler"
    reply.autoscaling_state.autoscaler_state_version = 1
    assert by_reply(reply)
    reply.autoscaling_state.infeasible_resource_requests.add(resources_bundle={"CPU": 64})
    assert not lacks_gpu_type(reply)
    reply.autoscaling_state.infeasible_resource_requests.add(resources_bundle={"CPU": 1, "GPU": 1})
    assert lacks_gpu_type(reply)
