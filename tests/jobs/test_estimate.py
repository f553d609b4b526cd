from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from jobs.estimate import lines
from jobs.index import IndexOptions, run_index
from jobs.progress import Reporter
from pipeline.core.errors import UserError
from pipeline.core.types import DescriptorFile, Shard
from pipeline.publish.packing import Packing
from pipeline.run.inline import InlineRunner
from pipeline.stages.extract import ExtractTask, ExtractWorker
from pipeline.stages.trial import TrialTask
from tests.builders import QUICK, images, run, tar_bytes, write_files

ALL = replace(QUICK, indexes=("flat", "ivfpq", "lsh"))


def dry(source: Path, root: Path, **more: Any) -> dict[str, Any]:
    options = IndexOptions(
        source=str(source),
        root=str(root),
        recipe=ALL,
        packing=Packing(files=8),
        dry_run=True,
        trial_seconds=1.0,
        **more,
    )
    return run_index(options, Reporter(io.StringIO())).estimate


@pytest.mark.parametrize("layout", ["folder", "tar"])
def test_a_dry_run_says_what_the_run_would_take_and_writes_nothing(tmp_path: Path, layout: str) -> None:
    files = images(20)
    if layout == "tar":
        halves = [dict(list(files.items())[start : start + 10]) for start in (0, 10)]
        files = {f"{name}.tar": tar_bytes(half) for name, half in zip("ab", halves, strict=True)}
    source, root = write_files(tmp_path / "src", files), tmp_path / "root"
    told = dry(source, root)
    assert not root.exists()
    assert abs(int(str(told["images"])) - 20) <= 1
    assert (told["dimensions"], told["workers"]) == (512, 1)
    assert told["bytes_to_read"] == sum(path.stat().st_size for path in source.iterdir())
    assert all("images" in line for line in lines(told))
    report = run(source, root, recipe=ALL)
    sizes = told["index_bytes"]
    assert isinstance(sizes, dict)
    flat = sum(path.stat().st_size for path in (root / "indexes").rglob("*.faiss"))
    assert sizes["flat"] < flat
    assert report.images["indexed"] == 20
    assert dry(source, root) == {}, "nothing new, nothing to estimate"


def test_what_cannot_fit_is_refused_before_any_work(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(20))
    with pytest.raises(UserError, match="raise --index-memory"):
        dry(source, tmp_path / "root", memory_bytes=100)


def test_the_trial_counts_no_second_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[tuple[float, float]] = []
    call = ExtractWorker.__call__

    def timed(worker: ExtractWorker, shard: Shard) -> DescriptorFile:
        started = time.perf_counter()
        found = call(worker, shard)
        spans.append((started, time.perf_counter()))
        return found

    monkeypatch.setattr(ExtractWorker, "__call__", timed)
    dry(write_files(tmp_path / "src", images(40)), tmp_path / "root")
    assert len(spans) == 5
    assert all(end <= start for (_, end), (start, _) in pairwise(sorted(spans))), "shards of a trial do not overlap"


class Elsewhere(InlineRunner):
    """Notes what it carries out; there is room for seven workers."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Any] = []

    def map(self, task: Any, items: Iterable[Any]) -> Iterator[Any]:
        self.tasks.append(task)
        return super().map(task, items)

    def room(self, task: Any) -> int:
        return 7


def test_the_trial_is_carried_out_by_the_runner_of_the_run(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", {**images(20), "bad.jpg": b"no image"})
    runner = Elsewhere()
    options = IndexOptions(
        source=str(source), root=str(tmp_path / "root"), recipe=ALL, packing=Packing(files=8), dry_run=True
    )
    told = run_index(options, Reporter(io.StringIO()), runner).estimate
    (task,) = runner.tasks
    assert isinstance(task, TrialTask)
    real = ExtractTask(root="", location="", recipe=task.recipe)
    assert task.resources == replace(real.resources, depth=1), "a worker of the run, and one shard at a time"
    assert (told["workers"], told["device"]) == (7, "cpu")
    assert not (tmp_path / "root").exists()


def test_a_trial_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    dry(write_files(tmp_path / "src", images(10)), tmp_path / "root")
    assert [path for path in (tmp_path / "scratch").rglob("*") if "trial-" in path.name] == []
