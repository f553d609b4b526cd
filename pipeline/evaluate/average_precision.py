"""Plain retrieval metrics: mAP, P@k, R@k and nDCG@k, by the ranks of relevant images or over rankings of keys.

Relevance is yes or no. The revisited protocol is in revisited.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.types import Ints

P_AT = (1, 5, 10)
R_AT = (1, 5, 10, 100)
NDCG_AT = (10, None)
"""None: the whole list."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One query that has relevant images. first: 1-based rank of the first one found, infinite when there is none."""

    average_precision: float
    first: float
    precision: Mapping[int, float]
    ndcg: Mapping[int | None, float]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Means over queries that have relevant images. recall[k]: share of queries with a relevant image in the top k."""

    queries: int
    skipped: int
    mean_average_precision: float
    precision: Mapping[int, float]
    recall: Mapping[int, float]
    ndcg: Mapping[int | None, float]

    @property
    def precision_at_1(self) -> float:
        """Share of queries whose first image is relevant."""
        return self.precision[1]


def judged(ranks: Ints, relevant: int) -> Judged:
    """Score a query by the 0-based ranks (m,), ascending, of the relevant images found, m ≤ relevant, relevant ≥ 1.

    AP: non-interpolated average precision of information retrieval, (1/relevant) Σ_j j / rank_j with 1-based j and
    ranks; a relevant image that is not ranked counts as zero. P@k: share of the k first places, also of a list that is
    shorter.
    """
    places = np.asarray(ranks, dtype=np.int64)
    found = np.arange(1, len(places) + 1)
    return Judged(
        average_precision=float((found / (places + 1)).sum() / relevant),
        first=float(places[0] + 1) if len(places) else float("inf"),
        precision={k: float((places < k).sum() / k) for k in P_AT},
        ndcg={k: ndcg(places, relevant, k) for k in NDCG_AT},
    )


def ndcg(ranks: Ints, relevant: int, k: int | None) -> float:
    """Normalised discounted cumulated gain of 0-based ranks (m,) within the k first places, or all.

    Σ gains discounted over the same sum of a list that begins with all relevant images (Järvelin and Kekäläinen, ACM
    TOIS 2002), gains 0 or 1. The discount is 1 / log2(1 + rank), which has become usual; theirs, 1 / max(1, log2 rank),
    holds the first two ranks equal.
    """
    within = ranks if k is None else ranks[ranks < k]
    best = np.arange(relevant if k is None else min(k, relevant))
    return float((1 / np.log2(within + 2)).sum() / (1 / np.log2(best + 2)).sum())


def ranks_of(ranking: Sequence[str], relevant: Collection[str]) -> Ints:
    """Return the 0-based ranks of the relevant keys, ascending."""
    return np.array([rank for rank, key in enumerate(ranking) if key in relevant], dtype=np.int64)


def average_precision(ranking: Sequence[str], relevant: Collection[str]) -> float:
    """Average precision of one ranking, see `judged`."""
    return judged(ranks_of(ranking, relevant), len(relevant)).average_precision


def means(queries: Sequence[Judged], skipped: int = 0) -> Scores:
    """Average over queries; not a number where there are none. skipped: queries that had nothing relevant."""
    n = len(queries)

    def mean(values: Sequence[float]) -> float:
        return sum(values) / n if n else float("nan")

    return Scores(
        queries=n,
        skipped=skipped,
        mean_average_precision=mean([query.average_precision for query in queries]),
        precision={k: mean([query.precision[k] for query in queries]) for k in P_AT},
        recall={k: mean([float(query.first <= k) for query in queries]) for k in R_AT},
        ndcg={k: mean([query.ndcg[k] for query in queries]) for k in NDCG_AT},
    )


def score(rankings: Mapping[str, Sequence[str]], relevant: Mapping[str, Collection[str]]) -> Scores:
    """Score one ranking per query. Queries without relevant images are skipped and counted."""
    used = [query for query in rankings if relevant.get(query)]
    return means(
        [judged(ranks_of(rankings[query], relevant[query]), len(relevant[query])) for query in used],
        len(rankings) - len(used),
    )
