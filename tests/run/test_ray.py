from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from jobs.runners import RunnerOptions
from pipeline.core.errors import UserError
from pipeline.table import DescriptorReader
from tests.builders import QUICK, images, run, write_files

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def runner() -> Iterator[object]:
    import ray

    from pipeline.run.ray import RayOptions, RayRunner

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield RayRunner(RayOptions(workers=2))
    ray.shutdown()


@dataclass(frozen=True)
class Work:
    """Squares numbers; kills its own process on an unlucky number, always or until a marker file exists."""

    folder: str
    deadly: int = -1
    always: bool = False
    broken: bool = False
    uses_gpu = False

    def open(self) -> Callable[[int], int]:
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


def test_a_task_that_cannot_be_opened_ends_the_run_with_its_own_error(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="mend it"):
        list(runner.map(Work(str(tmp_path), broken=True), [1]))


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


def published(root: Path) -> tuple[list[str], np.ndarray]:
    readers = [DescriptorReader(p) for p in sorted((root / "descriptors").rglob("*.parquet"))]
    keys = list(chain.from_iterable(reader.keys() for reader in readers))
    order = np.argsort(keys)
    return [keys[i] for i in order], np.concatenate([reader.vectors() for reader in readers])[order]


def test_i10_inline_and_one_and_two_workers_publish_the_same(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
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
        indexes = sorted(p.name for p in (tmp_path / name / "indexes").rglob("*.faiss"))
        found[-1] += (indexes,)  # type: ignore[assignment]
    (keys, vectors, indexes), *others = found  # type: ignore[misc]
    for other_keys, other_vectors, _ in others:  # type: ignore[misc]
        assert other_keys == keys
        # Threads split sums differently, so the last bits may differ between numbers of threads; nothing more.
        np.testing.assert_allclose(other_vectors, vectors, atol=2e-6)


def test_i3_a_run_whose_worker_is_killed_publishes_everything(runner, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = write_files(tmp_path / "src", images(12))
    report = run(source, tmp_path / "root", runner=RunnerOptions(kind="ray", workers=2))
    assert (report.images["indexed"], report.exit_code) == (12, 0)
