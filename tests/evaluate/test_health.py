"""Every measure against an independent slow version: loops, or cases that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.core.types import Floats
from pipeline.evaluate import health


@pytest.fixture(params=[(60, 8), (12, 40)], ids=["tall", "wide"])
def vectors(request: pytest.FixtureRequest) -> Floats:
    generator = np.random.default_rng(3)
    count, dim = request.param
    scales = np.linspace(3, 0.1, dim)
    return np.asarray(generator.normal(1, 1, (count, dim)) * scales, dtype=np.float32)


def test_norms_are_those_of_a_loop(vectors: Floats) -> None:
    slow = [math.sqrt(sum(float(value) ** 2 for value in vector)) for vector in vectors]
    assert health.norms(vectors) == pytest.approx(slow, rel=1e-6)
    assert health.norms(health.unit(vectors)) == pytest.approx([1.0] * len(vectors), rel=1e-6)


def test_a_zero_vector_stays_zero_at_length_one() -> None:
    assert not health.unit(np.zeros((2, 3), np.float32)).any()


def test_the_spectrum_is_that_of_the_covariance(vectors: Floats) -> None:
    expected = np.sort(np.linalg.eigvalsh(np.cov(vectors.astype(np.float64).T)))[::-1]
    found = health.spectrum(vectors)
    assert len(found) == min(vectors.shape[1], len(vectors) - 1)
    assert found == pytest.approx(expected[: len(found)], rel=1e-5)
    assert found.sum() == pytest.approx(vectors.var(axis=0, ddof=1, dtype=np.float64).sum(), rel=1e-5)


def test_the_spectrum_of_too_wide_a_matrix_is_that_of_its_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    monkeypatch.setattr(health, "WIDEST", 10)
    assert health.spectrum(vectors) == pytest.approx(health.spectrum(vectors[:10]))
    assert len(health.spectrum(vectors[:1])) == 0


def test_the_effective_dimension_counts_equal_axes_and_ignores_empty_ones() -> None:
    assert health.effective_dimension(np.array([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert health.effective_dimension(np.array([5.0, 0.0])) == pytest.approx(1)
    assert health.effective_dimension(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert health.effective_dimension(np.zeros(4)) == 0


def test_axes_are_counted_up_to_a_share() -> None:
    values = np.array([5.0, 3.0, 1.0, 1.0])
    assert [health.axes_for(values, share) for share in (0.5, 0.51, 0.8, 0.9, 1.0)] == [1, 2, 2, 3, 4]
    assert health.axes_for(np.zeros(3), 0.9) == 0


def test_the_mean_cosine_is_that_of_all_pairs(vectors: Floats) -> None:
    units = health.unit(vectors)
    pairs = [float(a @ b) for i, a in enumerate(units) for j, b in enumerate(units) if i != j]
    assert health.mean_cosine(units) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_random_pairs_are_of_different_rows_and_seeded(vectors: Floats) -> None:
    units = health.unit(vectors)
    drawn = health.random_cosines(units, 5000, 7)
    assert drawn.max() < 0.9999999
    assert np.array_equal(drawn, health.random_cosines(units, 5000, 7))
    assert drawn.mean() == pytest.approx(health.mean_cosine(units), abs=5 * float(drawn.std()) / math.sqrt(5000))


@pytest.mark.parametrize("chunk", [7, 1024])
def test_neighbours_and_occurrences_are_those_of_a_loop(
    vectors: Floats, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_CHUNK", chunk)
    units, k = health.unit(vectors), 3
    found = health.neighbours(units, k)
    occurrences = [0] * len(units)
    for number, one in enumerate(units):
        ranked = sorted((-float(one @ other), place) for place, other in enumerate(units) if place != number)[:k]
        assert found.row[number].tolist() == [place for _, place in ranked]
        assert found.score[number].tolist() == pytest.approx([-score for score, _ in ranked], abs=1e-5)
        for _, place in ranked:
            occurrences[place] += 1
    assert found.occurrences.tolist() == occurrences
    assert found.occurrences.mean() == k


def test_a_hub_is_in_everybodys_list_and_skews_the_counts() -> None:
    # A centre and points around it at right angles: everyone's nearest other is the centre.
    spokes = np.eye(12, dtype=np.float32)
    units = health.unit(np.concatenate([spokes, spokes.sum(axis=0, keepdims=True)]))
    counts = health.neighbours(units, 1).occurrences
    assert counts[12] == 12
    assert health.skewness(counts) > 2
    assert (counts == 0).mean() == pytest.approx(11 / 13)


def test_skewness_is_the_third_standardised_moment() -> None:
    counts = np.random.default_rng(1).poisson(3, 200)
    mean = sum(counts.tolist()) / 200
    second, third = (sum((value - mean) ** power for value in counts.tolist()) / 200 for power in (2, 3))
    assert health.skewness(counts) == pytest.approx(third / second**1.5)
    assert health.skewness(np.full(5, 10)) == 0
    # Of a Poisson distribution it is 1 / √λ.
    many = np.random.default_rng(1).poisson(4, 200_000)
    assert health.skewness(many) == pytest.approx(0.5, abs=0.03)
