"""The revisited Oxford/Paris protocol (Radenović et al., CVPR 2018), as its evaluation code computes it.

Easy, medium and hard differ in which images count as positive and which as junk. Junk is taken out of the ranking
before it is scored; AP is the trapezoid under the precision-recall curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.types import Ints
from pipeline.evaluate.ground_truth import Revisited, RevisitedQuery

AT = (1, 5, 10)
PROTOCOLS = ("easy", "medium", "hard")


@dataclass(frozen=True, kw_only=True)
class ProtocolScores:
    """Means over queries that have positives, None where there are none; precision[k] is mP@k."""

    mean_average_precision: float | None
    precision: dict[int, float | None]
    queries: int


def positives_and_junk(query: RevisitedQuery, protocol: str) -> tuple[Ints, Ints]:
    """Return (positives, junk) of a query: easy | easy + hard | hard count, the rest is junk."""
    lists = {
        "easy": (query.easy, query.junk + query.hard),
        "medium": (query.easy + query.hard, query.junk),
        "hard": (query.hard, query.junk + query.easy),
    }
    positives, junk = lists[protocol]
    return np.array(positives, dtype=np.int64), np.array(junk, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class JudgedQuery:
    """One query by one protocol; precision[k] is P@k."""

    average_precision: float
    precision: dict[int, float]


def judge(ranking: Ints, query: RevisitedQuery) -> dict[str, JudgedQuery]:
    """Score a ranking (m,) of image indices, best first, by the protocols in which the query has positives.

    A positive that is not ranked adds nothing to AP. -1 is an image outside imlist, any number of them: a negative, as
    the million distractors of the protocol are.
    """
    found = {}
    for protocol in PROTOCOLS:
        positives, junk = positives_and_junk(query, protocol)
        if len(positives):
            ranks = ranks_without_junk(ranking, positives, junk)
            found[protocol] = JudgedQuery(
                average_precision=trapezoid_ap(ranks, len(positives)),
                precision={k: precision_at(ranks, k) for k in AT},
            )
    return found


def means(queries: Sequence[Mapping[str, JudgedQuery]]) -> dict[str, ProtocolScores]:
    """Average each protocol over the queries that have positives in it; None where there are none."""
    scores = {}
    for protocol in PROTOCOLS:
        mine = [query[protocol] for query in queries if protocol in query]
        scores[protocol] = ProtocolScores(
            mean_average_precision=_mean([query.average_precision for query in mine]),
            precision={k: _mean([query.precision[k] for query in mine]) for k in AT},
            queries=len(mine),
        )
    return scores


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def score(rankings: Sequence[Ints], truth: Revisited) -> dict[str, ProtocolScores]:
    """Score one ranking of image indices per query, best first."""
    return means([judge(ranking, query) for ranking, query in zip(rankings, truth.gnd, strict=True)])


def ranks_without_junk(ranking: Ints, positives: Ints, junk: Ints) -> Ints:
    """Return the 0-based ranks of the positives, each lowered by the junk ranked before it."""
    is_positive, is_junk = np.isin(ranking, positives), np.isin(ranking, junk)
    places = np.flatnonzero(is_positive)
    return np.asarray(places - np.cumsum(is_junk)[places], dtype=np.int64)


def trapezoid_ap(ranks: Ints, count: int) -> float:
    """Σ_j ((j / rank_j, or 1 at rank 0) + (j + 1) / (rank_j + 1)) / 2 / count, over 0-based ranks in order."""
    j = np.arange(len(ranks), dtype=np.float64)
    before: npt.NDArray[np.float64] = np.where(ranks == 0, 1.0, j / np.maximum(ranks, 1))
    after = (j + 1) / (ranks + 1)
    return float(((before + after) / 2).sum() / count)


def precision_at(ranks: Ints, k: int) -> float:
    """Precision within the first k' = min(last positive's rank, k) places."""
    if not len(ranks):
        return 0.0
    within = min(int(ranks.max()) + 1, k)
    return float((ranks + 1 <= within).sum() / within)
