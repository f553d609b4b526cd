from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.evaluate import settings
from pipeline.evaluate.settings import Goal, rounded
from pipeline.evaluate.sweep import Point, Questions, Setting, questions, recall
from pipeline.evaluate.tuning import tune
from pipeline.search.engine import SearchIndex
from tests.evaluate.roots import clustered, published

INDEXES = "[indexes.flat]\n[indexes.ivfpq]\nm = 4\nnlist = 32\nnprobe = 2\n[indexes.hnsw]\nm = 8\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, _ = clustered(1600, 16, 40)
    return published(tmp_path_factory.mktemp("tuning"), x, [f"i{n:04d}" for n in range(1600)], INDEXES)


@pytest.fixture
def index(root: Path) -> Iterator[SearchIndex]:
    with SearchIndex.open(str(root)) as opened:
        yield opened


Cost = Callable[[int | None, int], float]


def priced(monkeypatch: pytest.MonkeyPatch, cost: Cost) -> list[tuple[int | None, int]]:
    """Let settings take what a formula says, instead of this machine's moods; recall stays measured."""
    measured: list[tuple[int | None, int]] = []

    def timed(index: SearchIndex, asked: Questions, kind: str, setting: Setting, seconds: float) -> Point:
        measured.append((setting.effort, setting.rerank))
        price = cost(setting.effort, setting.rerank)
        return Point(**vars(setting), p50=price, p99=price, queries_per_second=1 / price, bytes=0)

    monkeypatch.setattr(settings, "timed", timed)
    return measured


@pytest.mark.parametrize(
    ("probe", "candidate"), [(1.0, 0.01), (1.0, 0.3), (0.05, 1.0)], ids=["probes cost", "both", "candidates cost"]
)
def test_the_setting_found_is_nearly_the_best_of_the_whole_grid(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch, probe: float, candidate: float
) -> None:
    def cost(effort: int | None, rerank: int) -> float:
        return probe * (effort or 1) + candidate * rerank

    measured = priced(monkeypatch, cost)
    asked = questions(index, count=120)
    found = tune(index, asked, "ivfpq", Goal(target=0.95))
    assert found.best is not None
    assert found.best.recall >= 0.95
    every = [
        cost(effort, rerank)
        for effort in range(1, 33)
        for rerank in (0, 20, 40, 60, 80, 100, 150, 200)
        if recall(index, asked, "ivfpq", effort, rerank) >= 0.95
    ]
    assert found.best.p50 <= 1.3 * min(every)
    assert len(set(measured)) <= 15, "few are timed"
    assert found.usual.effort == 2


def test_a_grid_that_is_asked_for_is_measured_as_a_whole(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    priced(monkeypatch, lambda effort, rerank: (effort or 1) + rerank)
    heard: list[Point] = []
    goal = Goal(target=0.5, efforts=(1, 4), reranks=(0, 30, 60))
    found = tune(index, questions(index, count=50), "ivfpq", goal, heard.append)
    settings_of = {(point.effort, point.rerank) for point in found.points}
    assert settings_of == {(1, 0), (1, 30), (1, 60), (4, 0), (4, 30), (4, 60), (2, 100)}
    assert len(heard) == 7
    assert found.best is not None
    good = [point for point in found.points if point.recall >= 0.5 and point.rerank in goal.reranks]
    assert found.best == min(good, key=lambda point: point.p50)


def test_kinds_without_an_effort_are_measured_too(index: SearchIndex) -> None:
    found = tune(index, questions(index, count=30), "flat", Goal(max_bytes=100, seconds=0.01))
    assert found.best is not None
    assert (found.best.recall, found.best.effort, found.best.bytes) == (1.0, None, 72)


def test_codes_that_are_too_coarse_are_named_with_the_next_finer(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    priced(monkeypatch, lambda effort, rerank: (effort or 1) + rerank)
    found = tune(index, questions(index, count=60), "ivfpq", Goal(target=0.99, deepest=15))
    assert found.best is None
    assert any("codes limit" in line and "m = 8, 16 bytes" in line for line in found.limits)
    assert any("re-ranking limits" in line for line in found.limits)


def test_too_few_probes_are_named(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    priced(monkeypatch, lambda effort, rerank: (effort or 1) + rerank)
    asked = questions(index, count=60)
    found = tune(index, asked, "ivfpq", Goal(target=0.9999, efforts=(1,), reranks=(20,)))
    assert found.best is None
    assert any("nprobe limits: 2 holds" in line for line in found.limits)


def test_too_few_candidates_are_named_with_how_many_would_do(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    priced(monkeypatch, lambda effort, rerank: (effort or 1) + rerank)
    asked = questions(index, count=60)
    found = tune(index, asked, "ivfpq", Goal(target=0.9, efforts=(32,), reranks=(0, 12)))
    assert found.best is None
    (line,) = found.limits
    assert "re-ranking limits: 24 candidates hold" in line


def test_more_bytes_than_allowed_are_named(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    priced(monkeypatch, lambda effort, rerank: (effort or 1) + rerank)
    found = tune(index, questions(index, count=30), "hnsw", Goal(target=0.5))
    assert found.best is None
    assert found.points, "the curve is measured all the same"
    (line,) = found.limits
    assert "more than the 64 allowed" in line


@pytest.mark.parametrize(("depth", "expected"), [(1, 1), (9, 9), (11, 15), (33, 35), (101, 150), (940, 950)])
def test_depths_are_rounded_up_a_little(depth: int, expected: int) -> None:
    assert rounded(depth) == expected
