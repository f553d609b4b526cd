"""Workers that are lost without dying: broken by an error that stays, killed for memory, unable to unpickle."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import SightlineError
from pipeline.core.resources import Resources

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]
STICKY = "CUDA error: an illegal memory access was encountered"


@dataclass(frozen=True)
class Sticky:
    """Fails for good once it has met an unlucky number, in that process only. where: nodes whose workers never work."""

    unlucky: tuple[int, ...] = ()
    folder: str = ""
    where: tuple[str, ...] = ()
    opening: bool = False
    resources = Resources()

    def open(self, threads: int) -> Callable[[int], tuple[int, int]]:
        import ray

        sick = ray.get_runtime_context().get_node_id() in self.where
        if sick and self.opening:
            raise RuntimeError(STICKY)
        broken = [sick]

        def call(number: int) -> tuple[int, int]:
            time.sleep(0.02)
            marker = Path(self.folder) / str(number)
            if number in self.unlucky and not marker.exists():
                marker.touch()
                broken[0] = True
            if broken[0]:
                raise RuntimeError(STICKY)
            return number, os.getpid()

        return call


@dataclass(frozen=True)
class Unpicklable:
    """Cannot be unpickled by a worker, as a task of another release; the first times, or always."""

    resources = Resources()

    def __reduce__(self) -> tuple[Any, ...]:
        return _fail, ()

    def open(self, threads: int) -> Callable[[int], int]:
        raise AssertionError("never reached")


def _fail() -> Any:
    raise ModuleNotFoundError("No module named 'another_release'")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a node, with one CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def runner(cluster: Any) -> Iterator[Any]:
    from pipeline.run.ray import RayOptions, RayRunner

    made = RayRunner(RayOptions(workers=2))
    yield made
    made.close()


def nodes() -> list[str]:
    import ray

    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def test_a_sticky_error_costs_its_worker_and_one_attempt_of_its_item(runner: Any, tmp_path: Path) -> None:
    outcomes = {o.item: o for o in runner.map(Sticky(unlucky=(5, 17), folder=str(tmp_path)), range(40))}
    assert sorted(outcomes) == list(range(40))
    assert [item for item, outcome in outcomes.items() if outcome.value is None] == []
    assert {item for item, outcome in outcomes.items() if outcome.attempts > 1} >= {5, 17}
    assert sum(outcome.attempts > 1 for outcome in outcomes.values()) <= 4, "no item fails for its worker's sake"
    assert len({outcome.value[1] for outcome in outcomes.values()}) >= 3, "broken workers are replaced"


def test_a_sick_node_is_left_out_and_every_item_is_done_elsewhere(runner: Any) -> None:
    outcomes = list(runner.map(Sticky(where=(nodes()[1],)), range(60)))
    assert sorted(outcome.item for outcome in outcomes) == list(range(60))
    assert [outcome.error for outcome in outcomes if outcome.value is None] == []


def test_a_worker_that_is_broken_when_it_opens_is_replaced(runner: Any) -> None:
    outcomes = list(runner.map(Sticky(where=(nodes()[1],), opening=True), range(20)))
    assert [outcome.error for outcome in outcomes if outcome.value is None] == []


def test_when_every_node_is_sick_the_run_ends_with_one_line(runner: Any) -> None:
    with pytest.raises(SightlineError, match=r"workers were lost in a row.*illegal memory access") as caught:
        list(runner.map(Sticky(where=tuple(nodes())), range(200)))
    assert "\n" not in str(caught.value)


def test_a_task_that_no_worker_can_unpickle_ends_the_run_with_one_line(runner: Any) -> None:
    with pytest.raises(SightlineError, match="No module named 'another_release'") as caught:
        list(runner.map(Unpicklable(), range(3)))
    assert "\n" not in str(caught.value)
