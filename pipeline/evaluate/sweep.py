"""Recall against latency of an approximate index: what a setting of effort and re-ranking finds, and what it costs.

Pure measuring over an opened snapshot; which setting to take is decided in tuning.py. Queries are images of the
collection by their stored descriptors, each left out of its own results.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import UserError
from pipeline.core.types import Floats, Ints
from pipeline.evaluate.ann_recall import ann_recall
from pipeline.evaluate.exact import nearest, places, without
from pipeline.index import IndexSpec
from pipeline.search.engine import SearchIndex, SearchOptions

CHUNK = 128
"""Queries that are searched at a time where only what they find counts."""
LEAST_TIMED, MOST_TIMED = 30, 1000
EPSILON = 1e-9
"""What sums of shares may be off by."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Queries (q, d), the place of each (q,) in the collection, and the k nearest others of each, exactly."""

    k: int
    queries: Floats
    own: Ints
    exact: Sequence[Ints]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """effort: None for kinds that have none. rerank: candidates scored exactly. recall: of the k nearest, after it."""

    effort: int | None
    rerank: int
    recall: float


@dataclass(frozen=True, kw_only=True)
class Point(Setting):
    """A setting, measured.

    p50, p99: seconds of a single query, names of the results included. bytes: per vector of the index in memory.
    """

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


def positions(
    index: SearchIndex, asked: Questions, kind: str, effort: int | None, rerank: int
) -> tuple[npt.NDArray[np.float64], Ints]:
    """Return where each exact neighbour is among the candidates for `rerank`, ascending, infinite where it is not.

    Both are (n,), over all queries: the 0-based position, and the number of the query. No stored vector is read: what
    is among the exact k best of all is among the k best of any candidates that hold it, so re-ranking finds it if, and
    only if, it is a candidate. Without re-ranking only the k first others count.
    """
    wide = SearchOptions(k=max(asked.k + 1, rerank), index=kind, rerank=0, effort=effort)
    found: list[Ints] = []
    for start in range(0, len(asked.queries), CHUNK):
        found += [places(mine) for mine in index.candidates(asked.queries[start : start + CHUNK], wide)]
    where: list[npt.NDArray[np.float64]] = []
    for row, own, exact in zip(found, asked.own.tolist(), asked.exact, strict=True):
        candidates = row if rerank > asked.k else without(row, own, asked.k)
        hit, _, place = np.intersect1d(exact, candidates, return_indices=True)
        where.append(np.concatenate([place, np.full(len(exact) - len(hit), np.inf)]))
    numbers = np.repeat(np.arange(len(where)), [len(mine) for mine in where])
    order = np.argsort(np.concatenate(where), kind="stable")
    return np.concatenate(where)[order], numbers[order].astype(np.int64)


def recall(index: SearchIndex, asked: Questions, kind: str, effort: int | None, rerank: int) -> float:
    """Return the mean recall@k of a setting."""
    where, numbers = positions(index, asked, kind, effort, rerank)
    found = np.bincount(numbers[np.isfinite(where)], minlength=len(asked.exact))
    return float(np.mean(found / [len(exact) for exact in asked.exact]))


def least_rerank(
    index: SearchIndex, asked: Questions, kind: str, effort: int | None, *, target: float, deepest: int
) -> tuple[int | None, float]:
    """Return how many candidates must be re-ranked for the target, None if `deepest` are too few; and their recall.

    One search to the deepest tells it of all, for kinds that find the same with any number of results.
    """
    where, numbers = positions(index, asked, kind, effort, deepest)
    worth = np.array([1 / (len(exact) * len(asked.exact)) for exact in asked.exact])
    reached = np.cumsum(np.isfinite(where) * worth[numbers])
    enough = np.flatnonzero(reached >= target - EPSILON)
    needed = int(where[enough[0]]) + 1 if len(enough) else None
    return needed, float(reached[-1])


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
    found = recall(index, asked, kind, effort, rerank)
    return timed(index, asked, kind, Setting(effort=effort, rerank=rerank, recall=found), seconds)


def timed(index: SearchIndex, asked: Questions, kind: str, setting: Setting, seconds: float = 2.0) -> Point:
    """Time a setting of known recall; see `measure`."""
    effort, rerank = setting.effort, setting.rerank
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
        recall=setting.recall,
        p50=p50,
        p99=p99,
        queries_per_second=len(batch) / (time.perf_counter() - started),
        bytes=resolved(index, kind).row_bytes(index.dim),
    )


def resolved(index: SearchIndex, kind: str, row_bytes: int | None = None) -> IndexSpec:
    """Return the settings of an index kind, those that were left open as they are chosen for its rows at training.

    row_bytes: what a vector takes in the published files, where that is known: codes that were made smaller to fit a
    budget of memory are seen by nothing else.
    """
    spec = index.spec(kind)
    rows = next((fit.trained.rows for fit in index.snapshot.fitness if fit.kind == spec.kind), index.images)
    if row_bytes is not None:
        return spec.of_size(row_bytes, rows=max(1, rows), dim=index.dim)
    return spec.resolve(rows=max(1, rows), dim=index.dim)
