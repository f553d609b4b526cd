"""Plain retrieval metrics over rankings of keys: mAP, P@k, R@k. The revisited protocol is in revisited.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

R_AT = (1, 5, 10, 100)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Means over queries that have relevant images. recall[k]: share of queries with a relevant image in the top k."""

    queries: int
    skipped: int
    mean_average_precision: float
    precision_at_1: float
    recall: Mapping[int, float]


def average_precision(ranking: Sequence[str], relevant: Collection[str]) -> float:
    """Mean over relevant images of the precision at their rank; one that is not ranked counts as zero.

    Non-interpolated AP of information retrieval: (1/|relevant|) Σ_j j / rank_j.
    """
    found, total = 0, 0.0
    for rank, key in enumerate(ranking, start=1):
        if key in relevant:
            found += 1
            total += found / rank
    return total / len(relevant)


def score(rankings: Mapping[str, Sequence[str]], relevant: Mapping[str, Collection[str]]) -> Scores:
    """Score one ranking per query. Queries without relevant images are skipped and counted."""
    used = [query for query in rankings if relevant.get(query)]
    precisions = [average_precision(rankings[query], relevant[query]) for query in used]
    first = [_first(rankings[query], relevant[query]) for query in used]
    n = len(used)
    return Scores(
        queries=n,
        skipped=len(rankings) - n,
        mean_average_precision=sum(precisions) / n if n else float("nan"),
        precision_at_1=sum(rank == 1 for rank in first) / n if n else float("nan"),
        recall={k: sum(rank <= k for rank in first) / n if n else float("nan") for k in R_AT},
    )


def _first(ranking: Sequence[str], relevant: Collection[str]) -> float:
    """Rank (1-based) of the first relevant image; infinite when there is none."""
    return next((rank for rank, key in enumerate(ranking, start=1) if key in relevant), float("inf"))
