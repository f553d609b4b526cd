"""Whether two systems really differ: a paired bootstrap over queries that both have answered. Pure arithmetic.

Queries are drawn anew with replacement, both scores of a query together, and the mean difference is taken of each draw
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16). What it says holds for queries like
these; other collections are another question.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import UserError

RESAMPLES = 10_000
LEVEL = 0.95
CELLS = 1 << 22
"""Drawn numbers that are held at a time."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two systems over the same queries: means, the mean of second - first, its interval, two-sided p-value.

    better, worse: queries for which the second is.
    """

    queries: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float
    better: int
    worse: int

    @property
    def differ(self) -> bool:
        """Whether the interval excludes zero; then, and only then, is p below 1 - LEVEL, save for rounding."""
        return self.low > 0 or self.high < 0


def resampled_means(values: Doubles, resamples: int = RESAMPLES, seed: int = 0) -> Doubles:
    """Return the means (resamples,) of samples of n of the values (n,), drawn with replacement."""
    generator = np.random.default_rng(seed)
    n = len(values)
    out = np.empty(resamples)
    step = max(1, CELLS // n)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        out[start : start + count] = values[generator.integers(n, size=(count, n))].mean(axis=1)
    return out


def compare(first: Doubles, second: Doubles, *, resamples: int = RESAMPLES, seed: int = 0) -> Compared:
    """Compare scores (n,) of the same queries. UserError when there are none.

    The interval is that of percentiles. p is twice the share of draws on the other side of zero, each side with one
    draw more, so that it is never zero.
    """
    if not len(first):
        raise UserError("--compare", "has no query with relevant images in both", "check the ground truth")
    difference = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    drawn = resampled_means(difference, resamples, seed)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    return Compared(
        queries=len(difference),
        first=float(np.mean(first)),
        second=float(np.mean(second)),
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
        p_value=min(1.0, 2 * (1 + min(below, above)) / (resamples + 1)),
        better=int((difference > 0).sum()),
        worse=int((difference < 0).sum()),
    )
