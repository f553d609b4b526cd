"""Recall against latency of an approximate index: what a setting of effort and re-ranking finds, and what it costs.

Pure measuring over an opened snapshot; which setting to take is decided in tuning.py. Queries are images of the
collection by their stored descriptors, each left out of its own results.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import UserError
from pipeline.core.types import Floats, Ints
from pipeline.evaluate.ann_recall import ann_recall
from pipeline.evaluate.exact import nearest, places, without
from pipeline.index import IndexSpec
from pipeline.search.engine import SearchIndex, SearchOptions

CHUNK = 128
"""Queries that are searched at a time where only what they find counts."""
LEAST_TIMED, MOST_TIMED = 30, 1000


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Queries (q, d), the place of each (q,) in the collection, and the k nearest others of each, exactly."""

    k: int
    queries: Floats
    own: Ints
    exact: Sequence[Ints]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting, measured. effort: None for kinds that have none. recall: of the k nearest, after re-ranking.

    p50, p99: seconds of a single query, names of the results included. bytes: per vector of the index in memory.
    """

    effort: int | None
    rerank: int
    recall: float
    p50: float
    p99: float
    queries_per_second: float
    bytes: int


def questions(index: SearchIndex, *, k: int = 10, count: int = 1000, seed: int = 0) -> Questions:
    """Draw queries from the live images and answer them exactly."""
    if index.is_local:
        raise UserError("sweep", "is for global descriptors, these are local", "encode them")
    live = index.live()
    if len(live) < 2:
        raise UserError("sweep", f"needs neighbours, there are {len(live)} images", "index more")
    drawn = np.sort(np.random.default_rng(seed).choice(len(live), size=min(count, len(live)), replace=False))
    queries = index.stored.vectors(live.file[drawn], live.row[drawn])
    own = places(live)[drawn]
    return Questions(k=k, queries=queries, own=own, exact=nearest(index, queries, own, k))


def recall_by_depth(
    index: SearchIndex, asked: Questions, kind: str, effort: int | None, depths: Sequence[int]
) -> list[float]:
    """Return the recall@k with each number of candidates re-ranked, (len(depths),), from searches to the deepest.

    No stored vector is read: what is among the exact k best of all is among the k best of any candidates that hold it,
    so re-ranking finds it if, and only if, it is a candidate.
    """
    wide = SearchOptions(k=max(asked.k + 1, *depths), index=kind, rerank=0, effort=effort)
    found: list[Ints] = []
    for start in range(0, len(asked.queries), CHUNK):
        found += [places(mine) for mine in index.candidates(asked.queries[start : start + CHUNK], wide)]
    recalls = []
    for depth in depths:
        if depth > asked.k:
            mine = [row[:depth] for row in found]
        else:
            mine = [without(row[: asked.k + 1], own, asked.k) for row, own in zip(found, asked.own, strict=True)]
        # However many candidates there are, re-ranking puts the exact ones first.
        shares = [np.isin(exact, row).mean() for row, exact in zip(mine, asked.exact, strict=True)]
        recalls.append(float(np.mean(shares)))
    return recalls


def recall_of(index: SearchIndex, asked: Questions, options: SearchOptions) -> float:
    """Return the recall@k of searches as they are made, re-ranking included."""
    found = []
    for start in range(0, len(asked.queries), CHUNK):
        found += [places(mine) for mine in index.candidates(asked.queries[start : start + CHUNK], options)]
    cleaned = [without(row, own, asked.k).tolist() for row, own in zip(found, asked.own, strict=True)]
    return ann_recall(cleaned, [exact.tolist() for exact in asked.exact], asked.k)


def measure(
    index: SearchIndex, asked: Questions, kind: str, effort: int | None, rerank: int, seconds: float = 2.0
) -> Point:
    """Measure one setting. seconds: about how long to time single queries, and as long again a batch of them."""
    (recall,) = recall_by_depth(index, asked, kind, effort, [rerank])
    options = SearchOptions(k=asked.k, index=kind, rerank=rerank, effort=effort)
    index.search(asked.queries[:1], options)
    took: list[float] = []
    until = time.perf_counter() + seconds
    for number in range(MOST_TIMED):
        started = time.perf_counter()
        if number >= LEAST_TIMED and started > until:
            break
        one = number % len(asked.queries)
        index.search(asked.queries[one : one + 1], options)
        took.append(time.perf_counter() - started)
    p50, p99 = (float(value) for value in np.percentile(took, [50, 99]))
    batch = asked.queries[: max(1, min(len(asked.queries), int(seconds / p50)))]
    started = time.perf_counter()
    index.search(batch, options)
    return Point(
        effort=effort,
        rerank=rerank,
        recall=recall,
        p50=p50,
        p99=p99,
        queries_per_second=len(batch) / (time.perf_counter() - started),
        bytes=resolved(index, kind).row_bytes(index.dim),
    )


def resolved(index: SearchIndex, kind: str) -> IndexSpec:
    """Return the settings of an index kind, those that were left open as they are chosen for its rows at training."""
    spec = index.spec(kind)
    rows = next((fit.trained.rows for fit in index.snapshot.fitness if fit.kind == spec.kind), index.images)
    return spec.resolve(rows=max(1, rows), dim=index.dim)
