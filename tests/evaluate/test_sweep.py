from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.delete import EditOptions, delete
from pipeline.core.errors import UserError
from pipeline.evaluate.exact import places
from pipeline.evaluate.sweep import least_rerank, measure, questions, recall, recall_of, resolved
from pipeline.search.engine import SearchIndex, SearchOptions
from tests.evaluate.roots import FILE, clustered, published

INDEXES = "[indexes.ivfpq]\nm = 4\nnlist = 24\nnprobe = 3\n[indexes.hnsw]\nm = 8\nef_search = 16\n[indexes.lsh]\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, _ = clustered(1500, 16, 40)
    folder = tmp_path_factory.mktemp("sweep")
    made = published(folder, x, [f"i{n:04d}" for n in range(1500)], "[indexes.flat]\n" + INDEXES)
    delete(EditOptions(root=str(made), keys=tuple(f"{FILE}/i{n:04d}" for n in range(0, 1500, 7))))
    return made


@pytest.mark.parametrize("kind", ["ivfpq", "hnsw", "lsh", "flat"])
@pytest.mark.parametrize("rerank", [0, 3, 10, 11, 25, 80])
def test_recall_without_reading_vectors_is_that_of_searches_with_re_ranking(root: Path, kind: str, rerank: int) -> None:
    with SearchIndex.open(str(root)) as index:
        asked = questions(index, k=10, count=150)
        efforts = (1, 4) if index.spec(kind).effort else (None,)
        for effort in efforts:
            options = SearchOptions(k=11, index=kind, rerank=rerank, effort=effort)
            expected = recall_of(index, asked, options)
            assert recall(index, asked, kind, effort, rerank) == pytest.approx(expected, abs=2e-3)


def test_queries_are_live_images_and_are_not_their_own_neighbours(root: Path) -> None:
    with SearchIndex.open(str(root)) as index:
        asked, again = (questions(index, k=5, count=60, seed=seed) for seed in (1, 1))
        other = questions(index, k=5, count=60, seed=2)
        everywhere = set(places(index.live()).tolist())
        everyone = questions(index, count=10_000)
    assert len(asked.queries) == len(set(asked.own.tolist())) == 60
    assert set(asked.own.tolist()) <= everywhere
    for own, exact in zip(asked.own.tolist(), asked.exact, strict=True):
        assert own not in exact
        assert len(exact) == 5
        assert set(exact.tolist()) <= everywhere
    assert asked.own.tolist() == again.own.tolist()
    assert asked.own.tolist() != other.own.tolist()
    assert len(everyone.queries) == len(everywhere) == 1285


def test_the_fewest_candidates_to_re_rank_are_enough_and_one_less_is_not(root: Path) -> None:
    with SearchIndex.open(str(root)) as index:
        asked = questions(index, k=10, count=150)
        # All lists are searched: with any number of results the index finds the same.
        least, most = least_rerank(index, asked, "ivfpq", 24, target=0.9, deepest=400)
        assert least is not None
        assert 11 < least < 400
        assert recall(index, asked, "ivfpq", 24, least) >= 0.9 > recall(index, asked, "ivfpq", 24, least - 1)
        assert most == pytest.approx(recall(index, asked, "ivfpq", 24, 400))
        assert least_rerank(index, asked, "ivfpq", 24, target=0.9, deepest=least - 1)[0] is None


def test_a_measured_point_tells_what_it_cost(root: Path) -> None:
    with SearchIndex.open(str(root)) as index:
        asked = questions(index, count=50)
        point = measure(index, asked, "ivfpq", 2, 20, seconds=0.05)
        assert point.recall == recall(index, asked, "ivfpq", 2, 20)
        assert resolved(index, "ivfpq").row_bytes(16) == 12
    assert (point.effort, point.rerank, point.bytes) == (2, 20, 12)
    assert 0 < point.p50 <= point.p99 < 5
    assert point.queries_per_second > 0


def test_more_effort_finds_more(root: Path) -> None:
    with SearchIndex.open(str(root)) as index:
        asked = questions(index, count=150)
        found = [recall(index, asked, "ivfpq", effort, 60) for effort in (1, 3, 9, 24)]
    assert found == sorted(found)
    assert found[0] < found[-1] - 0.05


def test_where_there_are_no_neighbours_nothing_is_measured(tmp_path: Path) -> None:
    root = published(tmp_path, np.eye(4, dtype=np.float32)[:1], ["one"])
    with SearchIndex.open(str(root)) as index, pytest.raises(UserError, match="neighbours"):
        questions(index)
