from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.ann_recall import ann_recall
from pipeline.evaluate.average_precision import average_precision, score


def slow_ap(ranking: list[str], relevant: set[str]) -> float:
    return sum(
        len(set(ranking[: n + 1]) & relevant) / (n + 1) for n, key in enumerate(ranking) if key in relevant
    ) / len(relevant)


@given(st.permutations("abcdefg"), st.sets(st.sampled_from("abcdefgxy"), min_size=1))
def test_average_precision_equals_its_definition(ranking: list[str], relevant: set[str]) -> None:
    assert average_precision(ranking, relevant) == pytest.approx(slow_ap(ranking, relevant))


def test_scores_are_means_over_queries_with_relevant_images() -> None:
    found = score({"q1": ["a", "b"], "q2": ["b", "a"], "q3": ["a"]}, {"q1": {"a"}, "q2": {"a"}, "q3": set()})
    assert (found.queries, found.skipped) == (2, 1)
    assert found.mean_average_precision == 0.75
    assert found.precision_at_1 == 0.5
    assert (found.recall[1], found.recall[5]) == (0.5, 1.0)


def test_nothing_to_score_is_not_a_number() -> None:
    assert math.isnan(score({}, {}).mean_average_precision)


def test_recall_counts_what_is_found_of_the_exact_top_k() -> None:
    assert ann_recall([["a", "b"], ["x", "y"]], [["a", "c"], ["x", "y"]], 2) == 0.75
