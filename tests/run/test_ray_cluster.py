"""Several nodes on this machine: logical GPUs, nodes that come and nodes that are killed while a run goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.core.resources import Resources

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Where:
    """Sleeps, and tells which process, node and GPUs it ran on."""

    seconds: float = 0.1
    resources: Resources = field(default_factory=Resources)

    def open(self, threads: int) -> Callable[[int], tuple[int, str, str]]:
        return self.run

    def run(self, number: int) -> tuple[int, str, str]:
        import ray

        time.sleep(self.seconds)
        node = ray.get_runtime_context().get_node_id()
        return os.getpid(), node, os.environ.get("CUDA_VISIBLE_DEVICES", "unset")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head with one CPU, to which tests add nodes."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def runner(**options: Any) -> Any:
    from pipeline.run.ray import RayOptions, RayRunner

    return RayRunner(RayOptions(**options))


def test_each_worker_sees_its_own_gpu_and_the_others_see_none(cluster: Any) -> None:
    cluster.add_node(num_cpus=4, num_gpus=2)
    one = runner()
    outcomes = list(one.map(Where(resources=Resources(gpu=True)), range(12)))
    seen = {outcome.value[0]: outcome.value[2] for outcome in outcomes}
    assert sorted(seen.values()) == ["0", "1"], "one worker per GPU"
    one.close()
    outcomes = list(runner(gpus_per_worker=0.5).map(Where(resources=Resources(gpu=True)), range(24)))
    assert len({outcome.value[0] for outcome in outcomes}) > 2, "fractions share a GPU"
    outcomes = list(runner(workers=2).map(Where(), range(6)))
    assert {outcome.value[2] for outcome in outcomes} == {""}, "who asked for no GPU sees none"


def test_workers_of_one_phase_do_not_starve_those_of_the_next(cluster: Any) -> None:
    cluster.add_node(num_cpus=1, num_gpus=1)
    one = runner()
    assert len(list(one.map(Where(resources=Resources(gpu=True)), range(2)))) == 2
    both = runner(workers=2)
    both._idle = one._idle
    assert len({outcome.value[1] for outcome in both.map(Where(seconds=0.5), range(6))}) == 2, "both CPUs are used"


def test_gpus_that_a_cluster_does_not_have_are_refused_in_one_line(cluster: Any) -> None:
    with pytest.raises(UserError, match="the cluster has no GPU"):
        list(runner(gpus_per_worker=1.0).map(Where(resources=Resources(gpu=True)), range(3)))


def test_more_workers_are_used_as_nodes_arrive_and_fewer_do_not_stop_a_run(cluster: Any) -> None:
    outcomes = runner(workers=3).map(Where(seconds=0.3), range(30))
    first = [next(outcomes) for _ in range(3)]
    assert len({outcome.value[0] for outcome in first}) == 1, "there is room for one worker"
    cluster.add_node(num_cpus=1)
    rest = list(outcomes)
    assert len(first) + len(rest) == 30
    assert len({outcome.value[1] for outcome in rest}) == 2, "the new node was used; the third worker never came"


def test_a_node_that_is_killed_costs_its_items_one_attempt(cluster: Any) -> None:
    node = cluster.add_node(num_cpus=1)
    outcomes = runner(workers=2).map(Where(seconds=0.5), range(12))
    done = [next(outcomes) for _ in range(4)]
    cluster.remove_node(node, allow_graceful=False)
    done += list(outcomes)
    assert sorted(outcome.item for outcome in done) == list(range(12)), "each item is done, and once"
    assert all(outcome.value is not None for outcome in done)
    assert max(outcome.attempts for outcome in done) <= 2
