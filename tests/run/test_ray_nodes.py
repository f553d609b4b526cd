"""The main job on clusters of several nodes: real photographs, S3, logical GPUs, and everything that may die meanwhile.

Each time the published content is that of an undisturbed run in one process, bit by bit.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from jobs import cli
from pipeline.core.storage import open_store
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from tests.builders import tar_bytes, write_files
from tests.life import THOROUGH
from tests.run.nodes import Nodes, ended, namespaces_are_allowed

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(400)]

QUICK_DEATH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000"} | {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""A node that does not answer is dead after some seconds, not after a minute."""

EACH = 10

Content = tuple[list[tuple[str, str]], list[str], int]


def content(root: str) -> Content:
    """What is published: descriptor files and index shards by their bytes, and the number of images."""
    catalog = Catalog(open_store(root))
    head = catalog.require_head()
    lists = load_lists(catalog, head)
    files = sorted((file.shard_id, file.artifact.sha256) for file in manifests.descriptor_files(lists.descriptors))
    shards = sorted(shard.artifact.sha256 for shard in manifests.index_shards(lists.indexes))
    return files, shards, head.summary.images


def written(root: Path, suffix: str) -> list[Path]:
    """Files of descriptors, or completion records."""
    return [path for path in root.glob(f"descriptors/*/*{suffix}") if "rejects" not in path.name]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def museum(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real paintings in tars of ten."""
    paths = sorted((real_data / "museum" / "BBDD").glob("*.jpg"))
    tars = {
        f"{start:04d}.tar": tar_bytes({path.name: path.read_bytes() for path in paths[start : start + EACH]})
        for start in range(0, len(paths), EACH)
    }
    return write_files(tmp_path_factory.mktemp("museum") / "src", tars)


def settings(real_data: Path, resize: str) -> list[str]:
    weights = real_data / "weights" / "squeezenet1_0_imagenet_fp16.pth"
    return ["--backbone", "squeezenet1_0", "--weights", str(weights), "--resize", resize]


@pytest.fixture(scope="module")
def quick(real_data: Path) -> list[str]:
    return [*settings(real_data, "longest:224"), "--indexes", "flat,ivfpq"]


@pytest.fixture(scope="module")
def undisturbed(museum: Path, quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Content:
    """What one process publishes with `quick` settings."""
    root = tmp_path_factory.mktemp("undisturbed") / "root"
    inline(str(museum), str(root), *quick)
    return content(str(root))


@pytest.fixture
def slow(real_data: Path) -> list[str]:
    """Some seconds per shard of one worker."""
    return [*settings(real_data, "longest:1400"), "--indexes", "flat"]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path, QUICK_DEATH)
    yield made
    made.close()


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Nodes]:
    """Nodes in network namespaces."""
    if not namespaces_are_allowed():
        pytest.skip("network namespaces need root and the ip command")
    made = Nodes(tmp_path, QUICK_DEATH, apart=True)
    yield made
    made.close()


def inline(*arguments: str) -> None:
    assert cli.run(["index", *arguments]) == 0


ON_CPU = ("--device", "cpu", "--gpus-per-worker", "1")
"""Workers are pinned to logical GPUs, and compute on the CPU: no card is behind them."""


@pytest.mark.s3
def test_three_nodes_with_gpus_publish_to_s3_what_one_process_does(
    nodes: Nodes, bucket: str, museum: Path, real_data: Path
) -> None:
    store = open_store(f"{bucket}/src")
    for path in museum.iterdir():
        store.write(path.name, path.read_bytes())
    recipe = [*settings(real_data, "longest:384"), "--whiten", "pca", "--dims", "64", "--indexes", "flat,ivfpq,lsh"]
    nodes.environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    nodes.head(cpus=1)
    nodes.add(cpus=1, gpus=1)
    nodes.add(cpus=1, gpus=1)
    report, _ = nodes.index(f"{bucket}/src", f"{bucket}/three", *recipe, *ON_CPU)
    assert (report["images"]["indexed"], report["set_aside"]) == (287, {})
    inline(f"{bucket}/src", f"{bucket}/one", *recipe)
    assert content(f"{bucket}/three") == content(f"{bucket}/one")


@pytest.mark.skipif(not THOROUGH, reason="the node that is cut off lies in one, too; set SIGHTLINE_THOROUGH")
def test_nodes_in_namespaces_of_their_own_publish_what_one_process_does(
    apart: Nodes, museum: Path, tmp_path: Path, quick: list[str], undisturbed: Content
) -> None:
    apart.head(cpus=0)
    apart.add(cpus=1, gpus=1)
    apart.add(cpus=1, gpus=1)
    apart.index(str(museum), str(tmp_path / "three"), *quick, *ON_CPU)
    assert content(str(tmp_path / "three")) == undisturbed


def kill_a_worker(nodes: Nodes) -> None:
    workers = [worker for node in nodes.nodes for worker in node.workers()]
    workers[0].kill()


def kill_a_raylet(nodes: Nodes) -> None:
    node = next(node for node in nodes.nodes[1:] if node.workers())
    node.raylet().kill()


@pytest.mark.parametrize("kill", [kill_a_worker, kill_a_raylet])
def test_a_process_killed_at_work_costs_at_most_its_shard(
    nodes: Nodes,
    museum: Path,
    tmp_path: Path,
    quick: list[str],
    undisturbed: Content,
    kill: Callable[[Nodes], None],
) -> None:
    root = tmp_path / "root"
    nodes.head(cpus=1)
    nodes.add(cpus=1)
    nodes.add(cpus=1)
    run = nodes.start_index(str(museum), str(root), *quick, "--workers", "2")
    wait_for(lambda: len(written(root, ".json")) > 2)
    kill(nodes)
    report, said = ended(run)
    assert "a worker was lost" in said
    assert report["images"]["indexed"] == 287
    assert content(str(root)) == undisturbed
    shards = len(list(museum.iterdir()))
    assert len(written(root, ".json")) == shards
    assert len(written(root, ".parquet")) <= shards + 1, "at most one shard was done twice"


def test_a_killed_driver_is_followed_by_a_run_that_does_the_rest(
    nodes: Nodes, museum: Path, tmp_path: Path, quick: list[str], undisturbed: Content
) -> None:
    root = tmp_path / "root"
    nodes.head(cpus=2)
    run = nodes.start_index(str(museum), str(root), *quick, "--workers", "2")
    wait_for(lambda: len(written(root, ".json")) > 2)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=60)
    assert not (root / "snapshots").exists(), "nothing half-done is published"
    wait_for(lambda: not nodes.nodes[0].workers(), 60)
    done = len(written(root, ".json"))
    shards = len(list(museum.iterdir()))
    assert done < shards, "it was killed at work"
    report, _ = nodes.index(str(museum), str(root), *quick, "--workers", "2")
    assert report["images"]["indexed"] == 287
    assert content(str(root)) == undisturbed
    assert len(written(root, ".parquet")) <= shards + 2, "each of two workers lost at most its shard"


def test_a_node_that_is_cut_off_and_goes_on_writing_changes_nothing(
    apart: Nodes, museum: Path, tmp_path: Path, slow: list[str]
) -> None:
    root = tmp_path / "root"
    source = write_files(tmp_path / "src", {path.name: path.read_bytes() for path in sorted(museum.iterdir())[:8]})
    apart.head(cpus=0)
    lost = apart.add(cpus=1)
    run = apart.start_index(str(source), str(root), *slow, "--workers", "1")
    wait_for(lambda: len(written(root, ".json")) >= 1)
    time.sleep(0.5)
    before = len(written(root, ".json"))
    lost.cut()
    # No other worker is there: who completes one more shard is behind the cable that was cut.
    wait_for(lambda: len(written(root, ".json")) > before, 60)
    assert run.poll() is None
    apart.add(cpus=1)
    report, said = ended(run)
    lost.mend()
    assert "a worker was lost" in said
    assert (report["images"]["indexed"], report["set_aside"]) == (8 * EACH, {})
    inline(str(source), str(tmp_path / "one"), *slow)
    assert content(str(root)) == content(str(tmp_path / "one"))
    assert len(written(root, ".json")) == 8
    assert len(written(root, ".parquet")) <= 8 + 1
    assert not apart.index(str(source), str(root), *slow)[0]["published"], "there is nothing left to do"


PUSH, LEASE, STATUS = (
    "CoreWorkerService.grpc_client.PushTask",
    "NodeManagerService.grpc_client.RequestWorkerLease",
    "CoreWorkerService.grpc_client.GetObjectStatus",
)


CALLS = [[PUSH], [LEASE], [STATUS]] if THOROUGH else [[PUSH, LEASE, STATUS]]
WHEN = ["req", "resp"] if THOROUGH else ["resp"]


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("calls", CALLS)
def test_ray_calls_that_fail_change_nothing(
    tmp_path: Path, museum: Path, quick: list[str], undisturbed: Content, calls: list[str], when: str
) -> None:
    odds = {"req_failure_prob": 0, "resp_failure_prob": 0, "in_flight_failure_prob": 0, f"{when}_failure_prob": 100}
    faults = {call: {"num_failures": 2, **odds} for call in calls}
    nodes = Nodes(tmp_path, {"RAY_testing_rpc_failure": json.dumps(faults)})
    try:
        nodes.head(cpus=2)
        root = tmp_path / "root"
        report, said = nodes.index(str(museum), str(root), *quick, "--workers", "2")
    finally:
        nodes.close()
    if PUSH in calls:
        assert "a worker was lost" in said, "the fault was met"
    assert (report["images"]["indexed"], report["set_aside"]) == (287, {})
    assert content(str(root)) == undisturbed


def test_workers_that_cannot_use_their_gpus_end_the_run_with_one_line(
    nodes: Nodes, museum: Path, tmp_path: Path, quick: list[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU that they could use")
    nodes.head(cpus=2, gpus=2)
    run = nodes.start_index(str(museum), str(tmp_path / "root"), *quick)
    _, said = run.communicate(timeout=240)
    assert run.returncode == 1
    last = said.strip().splitlines()[-1]
    assert re.search(r"a worker was given GPU [01] and cannot use it: .*; mend it, or choose --device cpu", last), said
    assert "Traceback" not in said


def test_the_token_is_wanted(nodes: Nodes, tmp_path: Path) -> None:
    nodes.head(cpus=1)
    nodes.environment["RAY_AUTH_TOKEN"] = "0" * 64
    run = nodes.start_index(str(write_files(tmp_path / "src", {})), str(tmp_path / "root"))
    _, said = run.communicate(timeout=120)
    assert run.returncode == 2
    assert subprocess.list2cmdline([said]).count("Traceback") == 0
