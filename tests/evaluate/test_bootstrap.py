from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.evaluate import bootstrap
from pipeline.evaluate.bootstrap import compare, resampled_means


def test_a_bootstrap_is_close_to_the_distribution_of_all_resamples() -> None:
    difference = np.array([0.3, -0.1, 0.25, 0.05, -0.02])
    every = np.array([np.mean(one) for one in product(difference.tolist(), repeat=5)])
    found = compare(np.zeros(5), difference, resamples=40_000)
    assert found.difference == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(every, [0.025, 0.975])), abs=0.005)
    expected = 2 * min((every <= 0).mean(), (every >= 0).mean())
    assert found.p_value == pytest.approx(expected, abs=0.01)
    assert (found.better, found.worse) == (3, 2)


def test_drawn_means_are_those_of_a_loop_over_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=7)
    monkeypatch.setattr(bootstrap, "CELLS", 7 * 4)
    found = resampled_means(values, resamples=10, seed=5)
    generator = np.random.default_rng(5)
    slow: list[float] = []
    for count in (4, 4, 2):
        for row in generator.integers(7, size=(count, 7)):
            total = 0.0
            for number in row:
                total += values[number]
            slow.append(total / 7)
    np.testing.assert_allclose(found, slow, rtol=1e-12)


def test_systems_that_score_alike_do_not_differ() -> None:
    scores = np.random.default_rng(0).random(50)
    found = compare(scores, scores)
    assert (found.difference, found.low, found.high, found.p_value, found.differ) == (0.0, 0.0, 0.0, 1.0, False)


def test_a_clear_difference_shows_and_chance_does_not() -> None:
    generator = np.random.default_rng(1)
    scores = generator.random(200)
    clear = compare(scores, scores + 0.05 + 0.1 * generator.normal(size=200))
    assert clear.differ
    assert clear.low > 0
    assert clear.p_value < 0.001
    chance = compare(scores, scores + 0.1 * (np.arange(200) % 2 - 0.5))
    assert not chance.differ
    assert chance.p_value > 0.5


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    trials, covered, alarms = 400, 0, 0
    for trial in range(trials):
        # Skewed, as differences of average precision are: many near zero, a few large.
        difference = generator.exponential(0.1, size=80) - 0.06
        found = compare(np.zeros(80), difference, resamples=1000, seed=trial)
        covered += found.low <= 0.04 <= found.high
        nothing = compare(np.zeros(80), difference - 0.04, resamples=1000, seed=trial)
        alarms += nothing.differ
    # 380 expected of an exact interval, standard deviation 4.4; percentiles are a little short for skewed values.
    assert 362 <= covered <= 394
    assert alarms == trials - covered


def test_differ_and_p_value_agree() -> None:
    generator = np.random.default_rng(2)
    for trial in range(200):
        found = compare(np.zeros(30), generator.normal(0.03, 0.1, size=30), resamples=2000, seed=trial)
        if abs(found.p_value - 0.05) > 0.003:
            assert found.differ == (found.p_value < 0.05)


def test_the_seed_decides() -> None:
    difference = np.random.default_rng(4).normal(size=40)
    one, same, other = (compare(np.zeros(40), difference, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(UserError, match="no query"):
        compare(np.zeros(0), np.zeros(0))
