"""Merging of result lists, one per index shard, into one ranking. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.types import Floats, Ints, split_ids


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Ranked rows of one query: score (m,), larger is better; file (m,) and row (m,) say which descriptor it is."""

    score: Floats
    file: Ints
    row: Ints

    def __len__(self) -> int:
        return len(self.score)

    def first(self, k: int) -> Candidates:
        """Return the k best."""
        return Candidates(score=self.score[:k], file=self.file[:k], row=self.row[:k])

    def after(self, k: int) -> Candidates:
        """Return all but the k best."""
        return Candidates(score=self.score[k:], file=self.file[k:], row=self.row[k:])


def joined(first: Candidates, second: Candidates) -> Candidates:
    """Return one list after the other."""
    return Candidates(
        score=np.concatenate([first.score, second.score]),
        file=np.concatenate([first.file, second.file]),
        row=np.concatenate([first.row, second.row]),
    )


def located(scores: Floats, ids: Ints, files: Ints) -> Candidates:
    """Turn one query's (k,) scores and faiss ids of one index shard into candidates; id -1 means none.

    files (positions,): number of the descriptor file at each position of the shard, in the snapshot's order.
    """
    there = ids >= 0
    position, row = split_ids(ids[there])
    return Candidates(score=scores[there], file=files[position], row=row)


def ranked(parts: Sequence[Candidates]) -> Candidates:
    """Merge candidates by decreasing score; ties by file and row, so that the cut into index shards changes nothing."""
    score = np.concatenate([part.score for part in parts])
    file = np.concatenate([part.file for part in parts])
    row = np.concatenate([part.row for part in parts])
    order = np.lexsort((row, file, -score))
    return Candidates(score=score[order], file=file[order], row=row[order])
