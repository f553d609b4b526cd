"""Searching what exclusions leave of an approximate index as well as an index of the live rows alone would.

An approximate search looks at a neighbourhood of the query. Where most of that neighbourhood is excluded, k live
results may still come, from further away and not the nearest: the number of results says nothing about them. So each
kind looks at the yield: how many of the nearest rows are live.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.types import Floats, Ints
from pipeline.index import _faiss
from pipeline.index._faiss import Marks

POINTS_PER_LIST = 39
"""faiss's k-means asks for at least this many training points per centroid: the rows of a list in small indexes."""
SLACK = 0.75
"""Share of the live rows that are expected in the lists probed; fewer are made up for by probing more lists."""
AT_ONCE = 16 << 20
"""Values of a matrix (queries, rows) that a scan holds at once."""


@dataclass(frozen=True, kw_only=True)
class Live:
    """Which rows (n,) of an index are live, and how many; ids may repeat, and excluded ones need not be there."""

    marks: Marks
    count: int

    @staticmethod
    def of(ids: Ints, exclude: Ints) -> Live:
        """Return what exclusions leave of rows with ids (n,)."""
        marks = ~_faiss.among(ids, exclude)
        return Live(marks=marks, count=int(marks.sum()))

    @property
    def share(self) -> float:
        """The live share of all rows, never zero."""
        return max(1, self.count) / max(1, len(self.marks))

    def first(self, scores: npt.NDArray[Any], rows: Ints, k: int) -> tuple[npt.NDArray[Any], Ints, Ints]:
        """Return scores (q, k) and rows (q, k) of the first k live of ranked rows (q, n), and how many are live (q,).

        Row -1 where there are fewer.
        """
        live = (rows >= 0) & self.marks[np.maximum(rows, 0)]
        order = np.argsort(~live, axis=1, kind="stable")[:, :k]
        taken = np.where(np.take_along_axis(live, order, axis=1), np.take_along_axis(rows, order, axis=1), -1)
        scores = np.take_along_axis(scores, order, axis=1)
        if taken.shape[1] < k:
            missing = ((0, 0), (0, k - taken.shape[1]))
            taken, scores = np.pad(taken, missing, constant_values=-1), np.pad(scores, missing)
        return scores, taken, np.asarray(live.sum(axis=1), np.int64)


def top(scores: Floats, rows: Ints, k: int) -> tuple[Floats, Ints]:
    """Return the k best (q, k) of scores (q, n) of rows (n,), ties by their place; row -1 where there are fewer."""
    count = scores.shape[1]
    best, found = np.full((len(scores), k), -np.inf, np.float32), np.full((len(scores), k), -1, np.int64)
    for number, row in enumerate(scores):
        # Ties with the kth are all kept until the first of them are chosen.
        near = np.flatnonzero(row >= np.partition(row, count - k)[count - k]) if k < count else np.arange(count)
        order = near[np.argsort(-row[near], kind="stable")[:k]]
        best[number, : len(order)], found[number, : len(order)] = row[order], rows[order]
    return best, found


def probes(quantizer: Any, queries: Any, live: Ints, *, nprobe: int, least: int, rows: int) -> tuple[Ints, Any]:
    """Return the lists (q, p) to probe, nearest first, and their coarse distances (q, p); -1 where there are fewer.

    live (nlist,): the live rows of each list, of `rows` in all; lists without any are passed over. Each query probes
    nprobe others, and as many more as hold `least` live rows and about those that an index of the live rows alone would
    look at: its lists would be about the square root of their share as long.
    """
    total = int(live.sum())
    share = total / max(1, rows)
    length = max(POINTS_PER_LIST, rows / len(live) * share**0.5)
    wanted = min(total, max(least, round(SLACK * nprobe * length)))
    lists = min(nprobe, int((live > 0).sum()))
    depth = min(len(live), 2 * nprobe)
    while True:
        coarse, found = quantizer.search(queries, depth)
        held = np.where(found >= 0, live[np.maximum(found, 0)], 0)
        enough = (np.cumsum(held, axis=1) >= wanted) & (np.cumsum(held > 0, axis=1) >= lists)
        if enough[:, -1].all() or depth == len(live):
            break
        depth = min(len(live), 4 * depth)
    last = np.where(enough[:, -1], np.argmax(enough, axis=1), depth - 1)
    taken = (held > 0) & (np.arange(depth) <= last[:, None])
    order = np.argsort(~taken, axis=1, kind="stable")[:, : max(1, int(taken.sum(axis=1).max(initial=0)))]
    keys = np.where(np.take_along_axis(taken, order, axis=1), np.take_along_axis(found, order, axis=1), -1)
    return np.ascontiguousarray(keys, np.int64), np.ascontiguousarray(np.take_along_axis(coarse, order, axis=1))
