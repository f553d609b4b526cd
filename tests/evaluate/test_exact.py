from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.types import Floats, Ints
from pipeline.evaluate import exact
from pipeline.evaluate.exact import nearest, places, streamed
from pipeline.search.engine import SearchIndex
from tests.evaluate.roots import clustered, published, unit


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, _ = clustered(90, 12, 9)
    # Copies of one vector: whose neighbours are in doubt is decided by their places.
    x[40:60] = x[3]
    return published(tmp_path_factory.mktemp("exact"), x, [f"i{n:03d}" for n in range(90)])


def slow(x: Floats, number: int, k: int) -> list[int]:
    scores = [(-float(np.float32(x[number] @ x[other])), other) for other in range(len(x)) if other != number]
    return [other for _, other in sorted(scores)[:k]]


@pytest.mark.parametrize("rows", [7, 16, 1000])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_streamed_neighbours_are_those_of_a_loop_and_of_the_flat_index(
    root: Path, monkeypatch: pytest.MonkeyPatch, rows: int, k: int
) -> None:
    monkeypatch.setattr(exact, "ROWS", rows)
    with SearchIndex.open(str(root)) as index:
        live = index.live()
        x, where = index.stored.vectors(live.file, live.row), places(live)
        chosen = np.array([0, 3, 41, 59, 60, 89])
        found = streamed(index, x[chosen], where[chosen], k)
        by_index = nearest(index, x[chosen], where[chosen], k)
    assert found.shape == (6, min(k, 89))
    for number, mine, other in zip(chosen.tolist(), found, by_index, strict=True):
        expected = slow(x, number, k)
        scores = x[number] @ x[[int(where.searchsorted(place)) for place in mine]].T
        np.testing.assert_allclose(scores, x[number] @ x[expected].T, atol=1e-6)
        assert _untied(mine, x, number, where) == _untied(other, x, number, where)


def _untied(found: Ints, x: Floats, number: int, where: Ints) -> set[int]:
    """Numbers found, all copies as one: rounding decides among them."""
    numbers = {int(where.searchsorted(place)) for place in found}
    assert number not in numbers
    return {3 if 40 <= one < 60 else one for one in numbers}


def test_ties_go_to_the_first_places(root: Path) -> None:
    with SearchIndex.open(str(root)) as index:
        live = index.live()
        x, where = index.stored.vectors(live.file, live.row), places(live)
        # Vectors of ones and zeros: products are exact, however they are summed up.
        (found,) = streamed(index, np.round(x[3:4] * 0), where[3:4], 5)
    assert found.tolist() == where[[0, 1, 2, 4, 5]].tolist()


def test_stored_vectors_are_what_the_helper_says(root: Path) -> None:
    x, _ = clustered(90, 12, 9)
    with SearchIndex.open(str(root)) as index:
        live = index.live()
        np.testing.assert_allclose(index.stored.vectors(live.file, live.row)[0], unit(x)[0], atol=1e-3)
