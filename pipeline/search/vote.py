"""From the hits of single local descriptors to ranked images: every descriptor of the query votes. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.core.types import Floats
from pipeline.search.merge import Candidates, ranked

SELECTIVITY = 3.0
"""Exponent on a similarity: a few near descriptors count for more than many that are somewhat alike (ASMK's alpha)."""


def voted(hits: Sequence[Candidates]) -> Candidates:
    """Return the images that the descriptors of one query hit, best first.

    An image's score is the sum, over the descriptors of the query, of its best similarity to the power of SELECTIVITY,
    divided by their number: 1 when each has its like there.
    """
    if not hits:
        return Candidates(score=np.zeros(0, np.float32), file=np.zeros(0, np.int64), row=np.zeros(0, np.int64))
    parts = [_best_per_image(found) for found in hits]
    file = np.concatenate([part.file for part in parts])
    row = np.concatenate([part.row for part in parts])
    votes: Floats = np.clip(np.concatenate([part.score for part in parts]), 0, None) ** SELECTIVITY / len(hits)
    images, where = np.unique(np.stack([file, row]), axis=1, return_inverse=True)
    scores = np.bincount(where.reshape(-1), weights=votes, minlength=images.shape[1]).astype(np.float32)
    return ranked([Candidates(score=scores, file=images[0], row=images[1])])


def _best_per_image(found: Candidates) -> Candidates:
    """Return each image once, with its best score; found is ranked."""
    _, first = np.unique(np.stack([found.file, found.row]), axis=1, return_index=True)
    return Candidates(score=found.score[first], file=found.file[first], row=found.row[first])
