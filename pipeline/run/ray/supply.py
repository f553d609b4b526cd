"""What a Ray cluster has, and whether it can get more: its nodes, and the autoscaler that may be at its head.

A cluster started by hand has a monitor too, which only reports; it names node types after the nodes themselves. Which
types an autoscaler could start Ray does not say. Its second version says which requests no type can satisfy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.worker import global_worker
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental.internal_kv import _internal_kv_get

READ_ONLY = "node_"
"""How the monitor of a cluster that was started by hand calls the type of a node, followed by the node's id."""
STATUS_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that is alive: CPUs and GPUs, and the bytes of memory that workers may ask for."""

    id: str
    cpus: float = 0.0
    gpus: float = 0.0
    memory: int = 0


@dataclass(frozen=True, kw_only=True)
class Supply:
    """grows: an autoscaler may add nodes. starting: nodes that it is starting. no_gpu_type: it says that no type of
    node has the GPUs that are asked for.
    """

    nodes: tuple[Node, ...] = ()
    grows: bool = False
    starting: int = 0
    no_gpu_type: bool = False

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)


def look(without: Iterable[str] = ()) -> Supply:
    """Return what the cluster that this process is connected to has now. without: ids of nodes that do not count."""
    left_out = set(without)
    alive = [node_of(node) for node in ray.nodes() if node["Alive"] and node["NodeID"] not in left_out]
    grows, starting = by_status(_internal_kv_get(DEBUG_AUTOSCALING_STATUS))
    reply = _cluster_status()
    if by_reply(reply):
        grows, starting = True, sum(request.count for request in reply.autoscaling_state.pending_instance_requests)
        starting += len(reply.autoscaling_state.pending_instances)
    return Supply(nodes=tuple(alive), grows=grows, starting=starting, no_gpu_type=lacks_gpu_type(reply))


def node_of(listed: Mapping[str, Any]) -> Node:
    """Return a node as ray.nodes() lists it."""
    has = listed["Resources"]
    return Node(
        id=str(listed["NodeID"]),
        cpus=float(has.get("CPU", 0)),
        gpus=float(has.get("GPU", 0)),
        memory=int(has.get("memory", 0)),
    )


def by_status(status: bytes | None) -> tuple[bool, int]:
    """Return whether nodes may be added and how many are being started, by what Ray's first autoscaler reports."""
    report = (json.loads(status) if status else {}).get("autoscaler_report") or {}
    types = {**(report.get("node_type_mapping") or {}), **(report.get("active_nodes") or {})}
    names = {*(report.get("active_nodes") or {}), *(report.get("node_type_mapping") or {}).values()}
    starting = len(report.get("pending_nodes") or ()) + sum((report.get("pending_launches") or {}).values())
    return bool(types) and not all(name.startswith(READ_ONLY) for name in names), starting


def by_reply(reply: GetClusterStatusReply) -> bool:
    """Return whether nodes may be added, by what Ray's second autoscaler reports."""
    named = {node.ray_node_type_name for node in reply.cluster_resource_state.node_states} - {""}
    reports = reply.autoscaling_state.autoscaler_state_version > 0
    return reports and any(not name.startswith(READ_ONLY) for name in named)


def lacks_gpu_type(reply: GetClusterStatusReply) -> bool:
    """Return whether the second autoscaler has said that no type of node satisfies a request with GPUs."""
    refused = reply.autoscaling_state.infeasible_resource_requests
    return any(request.resources_bundle.get("GPU", 0) > 0 for request in refused)


def _cluster_status() -> GetClusterStatusReply:
    reply = GetClusterStatusReply()
    reply.ParseFromString(global_worker.gcs_client.get_cluster_status(timeout_s=STATUS_SECONDS))
    return reply
