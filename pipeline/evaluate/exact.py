"""Exact nearest neighbours of a snapshot's images, the yardstick of its approximate indexes.

By the flat index where the snapshot has one, else streamed over the stored vectors: memory is that of one chunk. An
image is named by its place, file << 32 | row, as in SearchIndex.live.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.core.types import Floats, Ints
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.search.merge import Candidates

ROWS = 16_384
"""Stored vectors that are compared at a time: 64 MB of scores with 1000 queries."""


def places(found: Candidates) -> Ints:
    """Return the place of each candidate (m,)."""
    return np.asarray((found.file << np.int64(32)) + found.row, dtype=np.int64)


def without(found: Ints, own: int, k: int) -> Ints:
    """Return the first k places (≤ k,) that are not one's own."""
    others: Ints = found[found != own]
    return others[:k]


def nearest(index: SearchIndex, queries: Floats, own: Ints, k: int) -> list[Ints]:
    """Return the places (≤ k,) nearest to each query (q, d), best first, its own place (q,) left out."""
    exact = next((kind for kind in index.kinds if index.spec(kind).exact), None)
    if exact is None:
        return list(streamed(index, queries, own, k))
    found = index.candidates(queries, SearchOptions(k=k + 1, index=exact))
    return [without(places(mine), int(one), k) for mine, one in zip(found, own, strict=True)]


def streamed(index: SearchIndex, queries: Floats, own: Ints, k: int) -> Ints:
    """Return the same as `nearest`, (q, min(k, n - 1)), from the stored vectors; ties go to the first place."""
    live = index.live()
    everywhere = places(live)
    score = np.zeros((len(queries), 0), np.float32)
    place = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(live), ROWS):
        part = slice(start, start + ROWS)
        here = everywhere[part]
        scores = queries @ index.stored.vectors(live.file[part], live.row[part]).T
        scores[here[None, :] == own[:, None]] = -np.inf
        score = np.concatenate([score, scores], axis=1)
        place = np.concatenate([place, np.broadcast_to(here, scores.shape)], axis=1)
        kept = _first_best(score, k)
        score, place = np.take_along_axis(score, kept, axis=1), np.take_along_axis(place, kept, axis=1)
    # Columns are in the order of places still, so a stable sort leaves ties in that order.
    order = np.argsort(-score, axis=1, kind="stable")[:, : max(0, len(live) - 1)]
    return np.asarray(np.take_along_axis(place, order, axis=1), dtype=np.int64)


def _first_best(scores: Floats, k: int) -> npt.NDArray[np.intp]:
    """Return the columns (q, min(k, m)) of the k largest values of each row, ascending; the first of equals."""
    rows, columns = scores.shape
    if columns <= k:
        return np.broadcast_to(np.arange(columns), scores.shape)
    least = np.partition(scores, columns - k, axis=1)[:, columns - k, None]
    above, level = scores > least, scores == least
    room = k - above.sum(axis=1, keepdims=True)
    return np.nonzero(above | (level & (np.cumsum(level, axis=1) <= room)))[1].reshape(rows, k)
