"""The Ray crew: whole answers or an error, whatever dies; shares of an index over actors; nothing left when closed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jobs.opened import open_search
from jobs.runners import RunnerOptions
from pipeline.core.errors import UnavailableError, UserError
from pipeline.core.resources import Resources
from pipeline.core.specs import kinds
from pipeline.core.threads import usable_cores
from pipeline.search.engine import SearchIndex, SearchOptions
from tests.builders import images, run, write_files
from tests.life import THOROUGH
from tests.run.nodes import REPOSITORY
from tests.search.test_shares import expect_same, questions
from tests.shared_root import publish_vectors

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

TWO = RunnerOptions(kind="ray", workers=2)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return publish_vectors(tmp_path_factory.mktemp("shares"), kinds("pipeline.index"))


@dataclass(frozen=True)
class Moody:
    """Answers with its number; an item "die" kills the second worker, "once" the first time, "sleep" holds it up."""

    number: int
    folder: str
    broken: bool = False
    resources = Resources(memory=50 << 20)

    def open(self, threads: int) -> Callable[[str], Any]:
        if self.broken:
            raise UserError("task", "is broken", "mend it")
        return self.answer

    def answer(self, item: str) -> Any:
        marker = Path(self.folder) / "died"
        if self.number == 1 and (item == "die" or (item == "once" and not marker.exists())):
            marker.write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.number == 1 and item == "sleep":
            time.sleep(5)
        if item == "threads":
            import faiss

            return faiss.omp_get_max_threads()
        if item == "node":
            import ray

            return ray.get_runtime_context().get_node_id()
        if item == "wrong":
            raise UserError("item", "is wrong", "ask something else")
        return self.number


def crew(folder: Path, *, seconds: float = 60.0, broken: bool = False) -> Any:
    from pipeline.run.ray import RayCrew, RayOptions

    def tasks(most: int) -> list[Moody]:
        return [Moody(number, str(folder), broken and number == 1) for number in range(most)]

    return RayCrew(tasks, RayOptions(workers=2), seconds, opening=60.0)


def test_answers_are_whole_or_an_error(ray_here: None, tmp_path: Path) -> None:
    import ray

    mine = crew(tmp_path)
    assert mine.ask("plain") == [0, 1]
    assert mine.ask("threads") == [max(1, usable_cores() // 2)] * 2
    with pytest.raises(UserError, match="ask something else"):
        mine.ask("wrong")
    assert mine.ask("once") == [0, 1], "the one that died was asked again"
    with pytest.raises(UnavailableError, match="worker 2 of 2 died 3 times"):
        mine.ask("die")
    assert mine.ask("plain") == [0, 1], "and is there again"
    ray.kill(mine._actors[0])
    assert mine.ask("plain") == [0, 1], "one that Ray has given up is replaced"
    mine.close()
    with pytest.raises(UnavailableError, match="let go"):
        mine.ask("plain")


def test_who_does_not_answer_in_time_is_named_and_others_are_served_meanwhile(ray_here: None, tmp_path: Path) -> None:
    mine = crew(tmp_path, seconds=2.0)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(mine.ask, "sleep")
        time.sleep(0.5)
        assert mine.ask("plain") == [0, 1], "several calls at a time"
        with pytest.raises(UnavailableError, match="worker 2 of 2 gave no answer within 2 s"):
            late.result()
    mine.close()


def test_a_task_that_cannot_be_opened_is_its_own_error_and_leaves_no_worker(ray_here: None, tmp_path: Path) -> None:
    before = holders()
    with pytest.raises(UserError, match="mend it"):
        crew(tmp_path, broken=True)
    gone(holders() - before)


def holders() -> set[int]:
    """Actors among the processes below this one."""
    found = psutil.Process().children(recursive=True)
    return {child.pid for child in found if child.is_running() and "ray::_Holder" in " ".join(_command(child))}


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


def gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline, f"{pids} are still there"
        time.sleep(0.1)


def test_shares_in_actors_answer_as_one_process_also_when_one_is_killed(ray_here: None, root: str) -> None:
    with SearchIndex.open(root) as local, open_search(root, runner=TWO) as index:
        asked = questions(local)
        for kind in local.kinds:
            options = SearchOptions(k=20, index=kind)
            expect_same(index.candidates(asked, options), local.candidates(asked, options))
        pids = index._parts._crew.pids()  # type: ignore[attr-defined]
        assert len(set(pids)) == 2
        options = SearchOptions(k=20, index="ivfpq")
        expected = local.candidates(asked, options)
        stop = threading.Event()

        def ask() -> int:
            count = 0
            while not stop.is_set():
                expect_same(index.candidates(asked, options), expected)
                count += 1
            return count

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask) for _ in range(3)]
            time.sleep(0.5)
            os.kill(pids[0], signal.SIGKILL)
            time.sleep(0.5)
            expect_same(index.candidates(asked, options), expected)
            stop.set()
            assert all(future.result() > 1 for future in asking)
        again = index._parts._crew.pids()  # type: ignore[attr-defined]
        assert again[0] != pids[0]
        assert again[1] == pids[1]
    gone({*pids, *again})


def ask_for(mine: Any, seconds: float) -> None:
    """Ask again and again; an answer is whole."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert mine.ask("plain") == [0, 1]


def answers(mine: Any) -> bool:
    try:
        return bool(mine.ask("plain") == [0, 1])
    except UnavailableError:
        return False


@pytest.mark.skipif(not THOROUGH, reason="a cluster of its own takes a minute; set SIGHTLINE_THOROUGH")
def test_shares_that_fill_a_node_are_on_nodes_of_their_own_and_wait_for_one_when_it_dies(tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from pipeline.run.ray import RayCrew, RayOptions

    ray.shutdown()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "memory": 60 << 20})
    try:
        second = cluster.add_node(num_cpus=2, memory=60 << 20)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        mine = RayCrew(lambda most: [Moody(number, str(tmp_path)) for number in range(most)], RayOptions(), 10.0)
        assert len(set(mine.ask("node"))) == 2, "one worker per node, where no number is said"
        cluster.remove_node(second, allow_graceful=False)
        with pytest.raises(UnavailableError, match=r"worker [12] of 2 (was lost|gave no answer)"):
            ask_for(mine, 60)
        cluster.add_node(num_cpus=2, memory=60 << 20)
        deadline = time.monotonic() + 60
        while not answers(mine):
            assert time.monotonic() < deadline, "the share is opened again where there is room"
        mine.close()
    finally:
        ray.shutdown()
        cluster.shutdown()


class Greedy(Moody):
    """Wants more memory than there is."""

    resources = Resources(memory=1 << 50)


def test_ray_is_shut_down_by_its_last_user_and_one_machine_is_not_asked_for_more_than_it_has(tmp_path: Path) -> None:
    import ray

    from pipeline.run.ray import RayCrew, RayOptions
    from pipeline.run.ray.connection import Connection

    ray.shutdown()
    out, first = sys.stdout, Connection("")
    with pytest.raises(UserError, match=r"wants 1125899\.9 GB of memory for its workers, and Ray has"):
        RayCrew(lambda most: [Greedy(0, str(tmp_path))], RayOptions(), 5.0)
    second = Connection("")
    first.close()
    first.close()
    assert ray.is_initialized(), "somebody still uses it"
    second.close()
    assert not ray.is_initialized()
    assert sys.stdout is out


def test_a_query_by_ray_prints_what_a_query_in_process_prints(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(12))
    run(source, tmp_path / "root", rows_per_index_shard=4)
    command = [sys.executable, "-m", "jobs.cli", "query", str(tmp_path / "root"), str(source / "0003.jpg"), "--json"]
    printed = [
        subprocess.run([*command, *more], check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
        for more in ([], ["--runner", "ray", "--workers", "2", "--timeout", "50"])
    ]
    assert json.loads(printed[0]) == json.loads(printed[1])
    assert np.isclose(json.loads(printed[0])["results"][0]["hits"][0]["score"], 1.0, atol=1e-3)
