"""A real autoscaler on this machine, from zero GPU nodes: what it is shown, what it adds is used, and what is left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.resources import Resources
from tests.run.nodes import REPOSITORY, Nodes

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
MOST = 3
"""GPU nodes that the autoscaler may add."""
OWN = "SIGHTLINE_TEST_OWN_PROCESS"
inner = pytest.mark.skipif(OWN not in os.environ, reason="runs in a process of its own, see the first test")
"""Ray reads once in a process whether tokens are wanted. Its fake nodes do without, those of other tests do not."""


@pytest.mark.skipif(OWN in os.environ, reason="this is that process")
def test_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "ray", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {OWN: "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "." in done.stdout.split()[0], "tests were run"


@dataclass(frozen=True)
class Together:
    """On a GPU. The first items wait until so many workers have one each; says which node and GPU, and threads."""

    folder: str
    workers: int = MOST
    resources = Resources(gpu=True)

    def open(self, threads: int) -> Callable[[int], tuple[str, str, int]]:
        import ray

        node = ray.get_runtime_context().get_node_id()
        (Path(self.folder) / node).touch()

        def call(number: int) -> tuple[str, str, int]:
            deadline = time.monotonic() + 120
            while len(list(Path(self.folder).iterdir())) < self.workers and time.monotonic() < deadline:
                time.sleep(0.1)
            return node, os.environ.get("CUDA_VISIBLE_DEVICES", "unset"), threads

        return call


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head with one CPU and no GPU, and a type of node with two CPUs and a GPU."""
    made = Nodes(tmp_path_factory.mktemp("cluster"), environment={"RAY_AUTH_MODE": "disabled"})
    gpu = {"resources": {"CPU": 2, "GPU": 1, "object_store_memory": 80_000_000}, "node_config": {}, "max_workers": MOST}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        import ray

        try:
            made.head(types={"gpu": gpu})
            ray.init(address=f"127.0.0.1:{made.port}", log_to_driver=False, logging_level="ERROR")
            yield made
        finally:
            ray.shutdown()
            made.close()


def asked_for() -> list[dict[str, float]]:
    """What waits for a place, as the autoscaler is shown it: one entry for each worker."""
    from ray._private.worker import global_worker
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    reply.ParseFromString(global_worker.gcs_client.get_cluster_status(timeout_s=10))
    pending = reply.cluster_resource_state.pending_resource_requests
    return [dict(entry.request.resources_bundle) for entry in pending for _ in range(entry.count)]


def gpus() -> float:
    import ray

    return float(ray.cluster_resources().get("GPU", 0))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.2)


@inner
def test_demand_is_shown_before_there_is_a_gpu_and_every_gpu_that_comes_is_used(cluster: Nodes, tmp_path: Path) -> None:
    from pipeline.run.ray import RayOptions, RayRunner
    from pipeline.run.ray.supply import look

    wait_for(lambda: look().grows)
    shown, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            # What came between the two looks would be counted as shown before.
            demand = sum(bundle.get("GPU", 0) > 0 for bundle in asked_for())
            if not gpus():
                shown.append(demand)

    watcher = threading.Thread(target=watch)
    watcher.start()
    runner = RayRunner(RayOptions())
    try:
        outcomes = list(runner.map(Together(str(tmp_path)), range(12)))
    finally:
        ended.set()
        watcher.join()
    assert max(shown) == 12, "as many as there are items, more than the autoscaler may add"
    assert sorted(outcome.item for outcome in outcomes) == list(range(12))
    values = [outcome.value for outcome in outcomes if outcome.value is not None]
    assert len({node for node, _, _ in values}) == MOST, "all GPUs that came were used"
    assert {card for _, card, _ in values} == {"0"}, "and by no worker without one"
    assert all(1 <= threads <= 2 for _, _, threads in values)
    wait_for(lambda: not asked_for())
    runner.close()


DRIVER = """
import sys
from pipeline.core.resources import Resources
from pipeline.run.ray import RayOptions, RayRunner

class Waits:
    resources = Resources(gpu=True)
    def open(self, threads):
        return abs

list(RayRunner(RayOptions(address=sys.argv[1], workers=5, cpus_per_worker=64)).map(Waits(), range(9)))
"""


@inner
def test_demand_ends_with_the_driver_that_is_killed(cluster: Nodes) -> None:
    command = [sys.executable, "-c", DRIVER, f"127.0.0.1:{cluster.port}"]
    driver = subprocess.Popen(command, env=cluster.environment, cwd=REPOSITORY)
    try:

        def waiting() -> int:
            return sum(bundle.get("CPU") == 64 for bundle in asked_for())

        wait_for(lambda: waiting() == 5)
        driver.kill()
        wait_for(lambda: not waiting())
    finally:
        driver.kill()
        driver.wait()
