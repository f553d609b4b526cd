from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.ann_recall import ann_recall
from pipeline.evaluate.average_precision import (
    NDCG_AT,
    P_AT,
    R_AT,
    average_precision,
    judged,
    means,
    ndcg,
    ranks_of,
    score,
)

KEYS = "abcdefghijklmn"
rankings = st.permutations(KEYS).flatmap(lambda keys: st.integers(0, len(keys)).map(lambda n: list(keys[:n])))
relevants = st.sets(st.sampled_from(KEYS + "xy"), min_size=1)


def slow_ap(ranking: list[str], relevant: set[str]) -> float:
    return sum(
        len(set(ranking[: n + 1]) & relevant) / (n + 1) for n, key in enumerate(ranking) if key in relevant
    ) / len(relevant)


def slow_ndcg(ranking: list[str], relevant: set[str], k: int | None) -> float:
    def dcg(gains: list[int]) -> float:
        return sum(gain / math.log2(1 + rank) for rank, gain in enumerate(gains[:k], start=1))

    return dcg([int(key in relevant) for key in ranking]) / dcg([1] * len(relevant))


@given(rankings, relevants)
def test_every_metric_equals_its_definition(ranking: list[str], relevant: set[str]) -> None:
    found = judged(ranks_of(ranking, relevant), len(relevant))
    assert found.average_precision == pytest.approx(slow_ap(ranking, relevant))
    assert average_precision(ranking, relevant) == found.average_precision
    for k in P_AT:
        assert found.precision[k] == pytest.approx(len(set(ranking[:k]) & relevant) / k)
    for depth in NDCG_AT:
        assert found.ndcg[depth] == pytest.approx(slow_ndcg(ranking, relevant, depth))
    scores = means([found])
    for k in R_AT:
        assert scores.recall[k] == float(bool(set(ranking[:k]) & relevant))


@pytest.mark.parametrize("k", [1, 3, 10, None])
def test_ndcg_equals_that_of_scikit_learn(k: int | None) -> None:
    ndcg_score = pytest.importorskip("sklearn.metrics").ndcg_score
    generator = np.random.default_rng(0)
    for _ in range(20):
        gains = generator.integers(0, 2, size=40)
        gains[generator.integers(40)] = 1
        scores = generator.permutation(40).astype(float)
        ranks = np.flatnonzero(gains[np.argsort(-scores)])
        assert ndcg(ranks, int(gains.sum()), k) == pytest.approx(ndcg_score([gains], [scores], k=k), rel=1e-12)


def test_average_precision_of_a_whole_ranking_equals_that_of_scikit_learn() -> None:
    average_precision_score = pytest.importorskip("sklearn.metrics").average_precision_score
    generator = np.random.default_rng(1)
    for _ in range(20):
        gains = generator.integers(0, 2, size=40)
        gains[generator.integers(40)] = 1
        scores = generator.permutation(40).astype(float)
        ranks = np.flatnonzero(gains[np.argsort(-scores)])
        expected = average_precision_score(gains, scores)
        assert judged(ranks, int(gains.sum())).average_precision == pytest.approx(expected, rel=1e-12)


def test_scores_are_means_over_queries_with_relevant_images() -> None:
    found = score({"q1": ["a", "b"], "q2": ["b", "a"], "q3": ["a"]}, {"q1": {"a"}, "q2": {"a"}, "q3": set()})
    assert (found.queries, found.skipped) == (2, 1)
    assert found.mean_average_precision == 0.75
    assert found.precision_at_1 == 0.5
    assert (found.recall[1], found.recall[5]) == (0.5, 1.0)
    assert found.precision == {1: 0.5, 5: 0.2, 10: 0.1}
    assert found.ndcg[None] == pytest.approx((1 + 1 / math.log2(3)) / 2)


def test_nothing_to_score_is_not_a_number() -> None:
    assert math.isnan(score({}, {}).mean_average_precision)


def test_recall_counts_what_is_found_of_the_exact_top_k() -> None:
    assert ann_recall([["a", "b"], ["x", "y"]], [["a", "c"], ["x", "y"]], 2) == 0.75
