"""Codes learned by ITQ, beside those of random projections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.core.types import Floats
from pipeline.index import IndexSpec
from pipeline.index.lsh import Spec
from tests.contracts.test_indexes import NOBODY, filled, trained, unit


def recall(spec: IndexSpec, x: Floats, queries: Floats, folder: Path) -> float:
    """Share of the true ten nearest among the first hundred codes."""
    folder.mkdir()
    _, searcher = filled(spec, x, folder)
    _, found = searcher.search(queries, 100, exclude=NOBODY)
    truth = np.argsort(-(queries @ x.T), axis=1)[:, :10]
    return float(np.mean([len(set(row) & set(ids)) / 10 for row, ids in zip(truth, found, strict=True)]))


def correlated(n: int, seed: int) -> Floats:
    """Unit vectors whose variance decays over directions, as descriptors' does."""
    generator = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(99).normal(size=(64, 64)))
    x = generator.normal(size=(n, 64)) * 0.93 ** np.arange(64) @ turn
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def test_learned_codes_find_more_than_random_ones_of_equal_length(tmp_path: Path) -> None:
    x, queries = correlated(5000, 0), correlated(100, 1)
    learned = recall(Spec(nbits=32, rotation="itq"), x, queries, tmp_path / "itq")
    random = recall(Spec(nbits=32), x, queries, tmp_path / "random")
    assert learned > random + 0.03


def test_learned_codes_are_merged_excluded_and_ordered_like_others(tmp_path: Path) -> None:
    x = unit(900, 32)
    resolved, start = trained(Spec(rotation="itq"), x, tmp_path)
    resolved.fill(start, [(0, x[:500]), (1, x[500:])], tmp_path / "whole")
    resolved.fill(start, [(0, x[:500])], tmp_path / "a")
    resolved.fill(start, [(0, x[500:])], tmp_path / "b")
    assert resolved.merge([(tmp_path / "a", 0), (tmp_path / "b", 1)], tmp_path / "merged") == 900
    dead = np.arange(0, 500, 2, dtype=np.int64)
    answers = [
        resolved.load(tmp_path / name, rows=900, dim=32).search(x[::40], 20, exclude=dead)
        for name in ("whole", "merged")
    ]
    np.testing.assert_array_equal(answers[0][1], answers[1][1])
    assert not np.isin(answers[0][1], dead).any()
    assert (np.diff(answers[0][0], axis=1) <= 0).all()


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_small_collections_are_learned_from_too(tmp_path: Path, rows: int) -> None:
    x = unit(rows, 32)
    _, searcher = filled(Spec(rotation="itq"), x, tmp_path)
    assert searcher.search(x[:1], 1, exclude=NOBODY)[1][0, 0] >= 0


def test_more_bits_than_dimensions_are_refused() -> None:
    with pytest.raises(UserError, match="gives 8 to as many bits"):
        Spec(rotation="itq", nbits=128).resolve(rows=100, dim=64)
