from __future__ import annotations

import io
import os
import platform
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import pytest

from jobs.index import IndexOptions, run_index
from jobs.progress import Reporter
from jobs.runners import RunnerOptions
from pipeline.core.errors import PlaceError, UserError
from pipeline.core.resources import Resources
from pipeline.table import DescriptorReader
from tests.builders import QUICK, images, run, write_files
from tests.test_infra import exported

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]


METRICS_PORT = 18599


@pytest.fixture(scope="module")
def runner() -> Iterator[object]:
    import ray

    from pipeline.run.ray import RayOptions, RayRunner

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _metrics_export_port=METRICS_PORT,
        _system_config={"metrics_report_interval_ms": 500},
    )
    yield RayRunner(RayOptions(workers=2))
    ray.shutdown()


@dataclass(frozen=True)
class Work:
    """Squares numbers; kills its own process on an unlucky number, always or until a marker file exists."""

    folder: str
    deadly: int = -1
    always: bool = False
    broken: bool = False
    resources = Resources()

    def open(self, threads: int) -> Callable[[int], int]:
        if self.broken:
            raise UserError("task", "is broken", "mend it")
        return self.square

    def square(self, number: int) -> int:
        marker = Path(self.folder) / "died"
        if number == self.deadly and (self.always or not marker.exists()):
            marker.write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 13:
            raise ValueError("unlucky")
        if number == 1999:
            raise PlaceError("/scratch: cannot be written")
        return number * number


def test_all_items_are_done_and_errors_are_values(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    outcomes = {o.item: o for o in runner.map(Work(str(tmp_path)), range(20))}
    assert {n: o.value for n, o in outcomes.items() if n != 13} == {n: n * n for n in range(20) if n != 13}
    assert outcomes[13].error == "ValueError: unlucky"


def test_a_dead_worker_costs_its_item_one_attempt(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    outcomes = {o.item: o for o in runner.map(Work(str(tmp_path), deadly=5), range(8))}
    assert {n: o.value for n, o in outcomes.items()} == {n: n * n for n in range(8)}
    assert outcomes[5].attempts == 2


def test_i13_an_item_that_kills_every_worker_is_set_aside(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    outcomes = {o.item: o for o in runner.map(Work(str(tmp_path), deadly=5, always=True), range(8))}
    assert outcomes[5].value is None
    assert "died 3 times" in (outcomes[5].error or "")
    assert sum(o.value is not None for o in outcomes.values()) == 7


@dataclass(frozen=True)
class Overlapping:
    """Two items per worker; says how many were under way. One item kills its process whatever its company."""

    deadly: int = -1
    opened_depth: int | None = None
    resources = Resources(depth=2)

    def open(self, threads: int) -> Callable[[int], int]:
        lock, under_way = threading.Lock(), [0]

        def call(number: int) -> int:
            with lock:
                under_way[0] += 1
            time.sleep(0.1)
            if number == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            with lock:
                seen = under_way[0]
            time.sleep(0.1)
            with lock:
                under_way[0] -= 1
            return seen

        if self.opened_depth is not None:
            call.depth = self.opened_depth  # type: ignore[attr-defined]
        return call


def test_a_worker_takes_as_many_items_at_a_time_as_its_task_says(runner) -> None:  # type: ignore[no-untyped-def]
    outcomes = list(runner.map(Overlapping(), range(12)))
    assert sorted(outcome.item for outcome in outcomes) == list(range(12))
    assert max(outcome.value for outcome in outcomes) == 2


def test_a_worker_takes_as_many_items_at_a_time_as_what_it_has_opened_says(runner) -> None:  # type: ignore[no-untyped-def]
    outcomes = list(runner.map(Overlapping(opened_depth=5), range(24)))
    assert max(outcome.value for outcome in outcomes) == 5


def test_i13_the_company_of_a_deadly_item_is_not_set_aside_with_it(runner) -> None:  # type: ignore[no-untyped-def]
    outcomes = {outcome.item: outcome for outcome in runner.map(Overlapping(deadly=3), range(12))}
    assert [item for item, outcome in outcomes.items() if outcome.value is None] == [3]
    assert outcomes[3].attempts == 3
    assert max(outcome.attempts for item, outcome in outcomes.items() if item != 3) <= 2, "then it was tried alone"


def test_a_task_that_cannot_be_opened_ends_the_run_with_its_own_error(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="mend it"):
        list(runner.map(Work(str(tmp_path), broken=True), [1]))


def test_a_place_that_cannot_be_written_ends_the_run_and_its_node_is_named(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlaceError, match=rf"/scratch: cannot be written \(on node {platform.node()}\)"):
        list(runner.map(Work(str(tmp_path)), [1, 1999, *[2] * 50]))


def test_items_are_pulled_as_workers_become_free(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pulled: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            pulled.append(number)
            yield number

    outcomes = runner.map(Work(str(tmp_path)), items())
    next(outcomes)
    assert len(pulled) <= 4
    outcomes.close()


def published(root: Path) -> tuple[list[str], np.ndarray, list[str]]:
    readers = [DescriptorReader(p) for p in sorted((root / "descriptors").rglob("*.parquet"))]
    keys = list(chain.from_iterable(reader.keys() for reader in readers))
    order = np.argsort(keys, kind="stable")
    vectors = np.concatenate([reader.vectors() for reader in readers])[order]
    return [keys[i] for i in order], vectors, sorted(p.name for p in (root / "indexes").rglob("*.faiss"))


def test_i10_inline_and_one_and_two_workers_publish_the_same_bits(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = write_files(tmp_path / "src", images(20))
    recipe = replace(QUICK, indexes=("flat", "ivfpq", "lsh"), dtype="float32")
    found = []
    for name, options in {
        "inline": RunnerOptions(),
        "one": RunnerOptions(kind="ray", workers=1),
        "two": RunnerOptions(kind="ray", workers=2),
    }.items():
        run(source, tmp_path / name, recipe=recipe, runner=options)
        found.append(published(tmp_path / name))
    keys, vectors, indexes = found[0]
    for other_keys, other_vectors, other_indexes in found[1:]:
        assert other_keys == keys
        np.testing.assert_array_equal(other_vectors, vectors)
        # Index files are named by their content: equal names are equal bytes.
        assert other_indexes == indexes


def test_i10_whitening_is_the_same_for_any_number_of_workers(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = write_files(tmp_path / "src", images(20))
    recipe = replace(QUICK, whiten="pca", dims=6)
    digests = set()
    for workers in (1, 2):
        report = run(source, tmp_path / str(workers), recipe=recipe, runner=RunnerOptions(kind="ray", workers=workers))
        assert report.recipe.whiten is not None
        assert report.recipe.whiten.artifact is not None
        digests.add(report.recipe.whiten.artifact.sha256)
    assert len(digests) == 1


def test_what_a_run_did_is_exported_and_in_its_report(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = write_files(tmp_path / "src", {**images(8), "bad.jpg": b"no image"})
    report = run(source, tmp_path / "root", runner=RunnerOptions(kind="ray", workers=1))
    assert (report.stats["images"], report.stats["rejected"]) == (8, 1)
    assert report.stats["bytes"] == sum(path.stat().st_size for path in source.iterdir())
    assert 0 < report.stats["forward_seconds"] < 60
    wanted = {name for name in exported() if name.startswith("ray_")} - {"ray_sightline_retries_total"}
    deadline = time.monotonic() + 30
    text = ""
    while time.monotonic() < deadline and not all(name in text for name in wanted):
        time.sleep(0.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics") as answer:
            text = answer.read().decode()
    assert {name for name in wanted if name not in text} == set()
    assert re.search(r'ray_sightline_rejects_total\{[^}]*reason="[a-z]', text)


def test_the_trial_of_a_dry_run_is_a_worker_s(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = write_files(tmp_path / "src", images(8))
    options = IndexOptions(
        source=str(source), root=str(tmp_path / "root"), recipe=QUICK, runner=RunnerOptions(kind="ray"), dry_run=True
    )
    told = run_index(options, Reporter(io.StringIO())).estimate
    assert (told["device"], told["trial"]["images"]) == ("cpu", 8)
    assert told["workers"] >= 1
    assert not (tmp_path / "root").exists()


def kill_a_busy_worker(root: Path, killed: list[int]) -> None:
    """Wait for the first completion record, then kill -9 one worker process."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(root.glob("descriptors/*/*.json")):
        time.sleep(0.005)
    for process in psutil.process_iter(["name", "cmdline"]):
        if any("ray::_Worker" in part for part in (process.info["cmdline"] or [])):
            process.kill()
            killed.append(process.pid)
            return


def test_i3_a_run_whose_worker_is_killed_publishes_everything(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source, root = write_files(tmp_path / "src", images(120)), tmp_path / "root"
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_busy_worker, args=(root, killed))
    killer.start()
    report = run(source, root, runner=RunnerOptions(kind="ray", workers=2))
    killer.join()
    assert len(killed) == 1
    assert (report.images["indexed"], report.exit_code) == (120, 0)
    run(source, tmp_path / "unkilled")
    for ours, theirs in zip(published(root)[:2], published(tmp_path / "unkilled")[:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
