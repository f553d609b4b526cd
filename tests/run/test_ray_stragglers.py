"""Calls that hang: a worker is ended past the limit of its item, a straggler is issued again."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.index import IndexOptions, run_index
from jobs.progress import Reporter
from pipeline.core.resources import Resources
from pipeline.core.types import Outcome, TimeLimit
from pipeline.publish.packing import Packing
from pipeline.run.base import limit_of, name_of
from pipeline.stages.describe import ExtractOptions
from tests.builders import QUICK, images, run, write_files
from tests.run.test_ray import published

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]
FOR_EVER = 600.0


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@contextmanager
def runner(**speculation: float) -> Iterator[Any]:
    from pipeline.run.ray import RayOptions, RayRunner
    from pipeline.run.ray.stragglers import Speculation

    made = RayRunner(RayOptions(workers=2, speculation=Speculation(**speculation)))  # type: ignore[arg-type]
    yield made
    made.close()


@dataclass(frozen=True)
class Hanging:
    """Doubles its items. hang: how often an item hangs, in the first tries of it. goes_on: seconds that it hangs."""

    folder: str
    hang: dict[int, int]
    goes_on: float = FOR_EVER
    seconds: float = 0.0
    resources = Resources()

    def limit(self, item: int) -> TimeLimit:
        return TimeLimit(seconds=self.seconds, option="--shard-timeout")

    def open(self, threads: int) -> Callable[[int], int]:
        return self.call

    def call(self, item: int) -> int:
        for number in range(self.hang.get(item, 0)):
            if first_to(Path(self.folder) / f"{item}-{number}"):
                time.sleep(self.goes_on)
                break
        time.sleep(0.05)
        return 2 * item


def first_to(path: Path) -> bool:
    """Tell whether nobody has been here before."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def test_an_item_that_hangs_costs_its_worker_and_is_tried_on_others_a_few_times(ray_here: None, tmp_path: Path) -> None:
    with runner(factor=0) as here:
        outcomes = {o.item: o for o in here.map(Hanging(str(tmp_path), {3: 1, 5: 9}, seconds=1.0), range(8))}
    assert {item: o.value for item, o in outcomes.items()} == {n: 2 * n if n != 5 else None for n in range(8)}
    assert {item: o.attempts for item, o in outcomes.items()} == {n: {3: 2, 5: 3}.get(n, 1) for n in range(8)}
    assert outcomes[5].error == "took longer than 1 s (--shard-timeout); it was tried 3 times"
    assert (outcomes[5].unread, (tmp_path / "5-2").exists(), (tmp_path / "5-3").exists()) == (False, True, False)


def test_a_straggler_is_issued_again_and_has_one_outcome(ray_here: None, tmp_path: Path) -> None:
    with runner(least_seconds=0.5) as here:
        outcomes = list(here.map(Hanging(str(tmp_path), {9: 1}), range(10)))
        assert sorted((o.item, o.value) for o in outcomes) == [(n, 2 * n) for n in range(10)]
        assert {o.attempts for o in outcomes} == {1}, "a copy is no failure"
        # The first worker was ended, and has left its place to others.
        assert len(list(here.map(Hanging(str(tmp_path), {}), range(20)))) == 20


def test_a_straggler_that_ends_first_is_the_outcome_and_its_copy_counts_for_nothing(
    ray_here: None, tmp_path: Path
) -> None:
    task = Hanging(str(tmp_path), {9: 2}, goes_on=30.0)
    with runner(least_seconds=0.5) as here:
        outcomes = list(here.map(task, range(10)))
    assert sorted((o.item, o.value) for o in outcomes) == [(n, 2 * n) for n in range(10)]
    assert (tmp_path / "9-1").exists(), "it was issued again"


@dataclass(frozen=True)
class HangsOnce:
    """A task whose first item of all hangs, in the worker that meets it first."""

    task: Any
    folder: str

    @property
    def label(self) -> str:
        return name_of(self.task)

    @property
    def resources(self) -> Resources:
        resources: Resources = self.task.resources
        return resources

    def limit(self, item: Any) -> TimeLimit:
        return limit_of(self.task, item)

    def open(self, threads: int) -> Callable[[Any], Any]:
        function = self.task.open(threads)

        def call(item: Any) -> Any:
            if first_to(Path(self.folder) / f"hung-{self.label}"):
                (Path(self.folder) / f"hung-{self.label}").write_text(getattr(item, "id", ""))
                time.sleep(FOR_EVER)
            return function(item)

        call.take_stats = function.take_stats  # type: ignore[attr-defined]
        return call


@dataclass
class Disturbed:
    """A runner, each of whose extractions hangs once."""

    inner: Any
    folder: str
    name: str = "disturbed"
    outcomes: list[Outcome[Any, Any]] = field(default_factory=list)

    def map(self, task: Any, items: Iterable[Any]) -> Iterator[Any]:
        if name_of(task) != "ExtractTask":
            yield from self.inner.map(task, items)
            return
        for outcome in self.inner.map(HangsOnce(task, self.folder), items):
            self.outcomes.append(outcome)
            yield outcome

    def room(self, task: Any) -> int:
        room: int = self.inner.room(task)
        return room

    def progress(self, phase: str, pending: int, seconds: float) -> None:
        """Nobody listens."""

    def close(self) -> None:
        """Nothing was started."""


@pytest.mark.parametrize("how", ["straggler", "limit"])
def test_a_run_with_a_worker_that_hangs_publishes_what_an_undisturbed_run_does(
    ray_here: None, tmp_path: Path, how: str
) -> None:
    source, root = write_files(tmp_path / "src", images(60)), tmp_path / "root"
    options = IndexOptions(
        source=str(source),
        root=str(root),
        recipe=QUICK,
        packing=Packing(files=4),
        extract=ExtractOptions(shard_seconds=5.0 if how == "limit" else 0.0),
    )
    with runner(least_seconds=0.5, factor=3.0 if how == "straggler" else 0.0) as here:
        disturbed = Disturbed(here, str(tmp_path))
        report = run_index(options, Reporter(io.StringIO()), disturbed)
    assert (report.exit_code, report.images["indexed"], report.stats["images"]) == (0, 60, 60)
    hung = (tmp_path / "hung-ExtractTask").read_text()
    attempts = {outcome.item.id: outcome.attempts for outcome in disturbed.outcomes}
    assert attempts[hung] == (1 if how == "straggler" else 2)
    assert len(attempts) == len(disturbed.outcomes)
    run(source, tmp_path / "undisturbed")
    for ours, theirs in zip(published(root), published(tmp_path / "undisturbed"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
