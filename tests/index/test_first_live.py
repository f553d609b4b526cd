"""Fetching more where an index knows no selector: as little as it takes, and never less than there is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from pipeline.core.types import Floats, Ints
from pipeline.index._faiss import Remembered, first_live

ROWS = 100_000


class Ranked:
    """Rows in the order of their numbers for every query; remembers what was fetched."""

    def __init__(self, live: Ints) -> None:
        self.dead = np.ones(ROWS, bool)
        self.dead[live] = False
        self.fetched: list[tuple[int, int]] = []

    def __call__(self, which: Ints, count: int) -> tuple[Floats, Ints]:
        self.fetched.append((len(which), count))
        ids = np.where(self.dead[:count], -1, np.arange(count))
        scores = np.linspace(1, 0, ROWS, dtype=np.float32)[:count]
        return np.tile(scores, (len(which), 1)), np.tile(ids, (len(which), 1))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.02])
def test_live_rows_that_lie_evenly_cost_about_their_share(share: float) -> None:
    live = np.flatnonzero(np.random.default_rng(0).random(ROWS) < share)
    index = Ranked(live)
    scores, ids = first_live(index, 3, 100, live=len(live), rows=ROWS)
    np.testing.assert_array_equal(ids, np.tile(live[:100], (3, 1)))
    assert scores.shape == (3, 100)
    assert sum(count for _, count in index.fetched) <= 400 / share


def test_live_rows_that_come_last_are_found_by_doubling() -> None:
    live = np.arange(ROWS - 500, ROWS)
    index = Ranked(live)
    _, ids = first_live(index, 2, 10, live=500, rows=ROWS)
    np.testing.assert_array_equal(ids[0], live[:10])
    counts = [count for _, count in index.fetched]
    assert counts[-1] == ROWS
    assert all(later == min(ROWS, 2 * sooner) for sooner, later in pairwise(counts))


@pytest.mark.parametrize("live", [0, 1, 7])
def test_fewer_live_rows_than_wanted_are_all_that_comes(live: int) -> None:
    _, ids = first_live(Ranked(np.arange(live)), 2, 10, live=live, rows=ROWS)
    assert (ids >= 0).sum(axis=1).tolist() == [live, live]


def test_what_is_made_of_an_array_is_kept_for_the_last_few() -> None:
    made: list[int] = []
    kept = Remembered(lambda exclude: made.append(len(exclude)))
    arrays = [np.zeros(size, np.int64) for size in range(5)]
    for array in (*arrays[:3], *arrays[:3]):
        kept.of(array)
    assert made == [0, 1, 2]
    for array in (arrays[3], arrays[4], arrays[0]):
        kept.of(array)
    assert made == [0, 1, 2, 3, 4, 0]
    kept.of(arrays[0].copy())
    assert made[-2:] == [0, 0]
