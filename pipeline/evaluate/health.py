"""Health of descriptors: norms, spectrum, how alike strangers and neighbours are, hubness. Pure arithmetic on a sample.

Nothing is read here and nothing judged: what a good value looks like is said where the numbers are shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.types import Floats, Ints

Doubles = npt.NDArray[np.float64]

NEIGHBOURS = 10
"""Depth at which occurrences are counted, as Radovanović et al. count them (N_10)."""
WIDEST = 4096
"""The matrix whose eigenvalues are taken is at most so wide: 134 MB in double precision."""
_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """For each of n vectors its k nearest others: row (n, k) and score (n, k), cosines, best first."""

    row: Ints
    score: Floats

    @property
    def occurrences(self) -> Ints:
        """How often each vector is among the k nearest of others, N_k, (n,); the mean is k."""
        return np.bincount(self.row.reshape(-1), minlength=len(self.row)).astype(np.int64)


def norms(vectors: Floats) -> Doubles:
    """Return the Euclidean lengths (n,) of vectors (n, d)."""
    squares: Doubles = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return np.sqrt(squares)


def unit(vectors: Floats) -> Floats:
    """Return vectors (n, d) at length 1; zero vectors stay zero."""
    lengths = np.maximum(norms(vectors), 1e-12)[:, None]
    return np.asarray(vectors / lengths, dtype=np.float32)


def spectrum(vectors: Floats) -> Doubles:
    """Return the eigenvalues of the covariance of vectors (n, d), largest first: as many as there can be above zero.

    Of the two matrices with these eigenvalues, covariance (d, d) and Gram (n, n), the smaller is taken; where both are
    wider than WIDEST, only the first WIDEST vectors count. (0,) for fewer than two vectors.
    """
    if min(vectors.shape) > WIDEST:
        vectors = vectors[:WIDEST]
    count, dim = vectors.shape
    if count < 2:
        return np.zeros(0)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    product = centred.T @ centred if dim <= count else centred @ centred.T
    values = np.linalg.eigvalsh(product / (count - 1))[::-1]
    return np.maximum(values[: min(dim, count - 1)], 0.0)


def effective_dimension(eigenvalues: Doubles) -> float:
    """Return the participation ratio (Σλ)² / Σλ²: d when all d are equal, 1 when there is but one; 0 without any."""
    squares = float((eigenvalues**2).sum())
    return float(eigenvalues.sum()) ** 2 / squares if squares else 0.0


def axes_for(eigenvalues: Doubles, share: float) -> int:
    """Return how many of the largest eigenvalues hold a share of their sum; 0 where the sum is 0."""
    total = float(eigenvalues.sum())
    if not total:
        return 0
    reached = np.cumsum(eigenvalues) / total >= share - 1e-12
    return int(np.argmax(reached)) + 1


def mean_cosine(units: Floats) -> float:
    """Return the mean cosine of all pairs of different rows of (n, d), n ≥ 2: (‖Σx‖² − Σ‖x‖²) / (n (n − 1))."""
    count = len(units)
    total = units.sum(axis=0, dtype=np.float64)
    own = float(np.einsum("nd,nd->", units, units, dtype=np.float64))
    return (float(total @ total) - own) / (count * (count - 1))


def random_cosines(units: Floats, pairs: int, seed: int) -> Floats:
    """Return the cosines (pairs,) of pairs of different rows of (n, d), n ≥ 2, drawn with replacement."""
    generator = np.random.default_rng(seed)
    one = generator.integers(0, len(units), pairs)
    other = (one + generator.integers(1, len(units), pairs)) % len(units)
    out = np.zeros(pairs, np.float32)
    for start in range(0, pairs, _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = np.einsum("nd,nd->n", units[one[part]], units[other[part]])
    return out


def neighbours(units: Floats, k: int = NEIGHBOURS) -> Neighbours:
    """Return the k nearest others of each row of (n, d), n > k, by inner product; among all rows, exactly."""
    count = len(units)
    assert count > k, "there are k others"
    row, score = np.zeros((count, k), np.int64), np.zeros((count, k), np.float32)
    for start in range(0, count, _CHUNK):
        products = units[start : start + _CHUNK] @ units.T
        mine = np.arange(len(products))
        products[mine, start + mine] = -np.inf
        best = np.argpartition(-products, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(products, best, axis=1)
        # Ties by row, so that equal vectors come in one order.
        order = np.lexsort((best, -found), axis=1)
        row[start : start + _CHUNK] = np.take_along_axis(best, order, axis=1)
        score[start : start + _CHUNK] = np.take_along_axis(found, order, axis=1)
    return Neighbours(row=row, score=score)


def skewness(counts: Ints) -> float:
    """Return the third standardised moment of counts (n,), 0 where they are all equal.

    Of N_k it measures hubness: Radovanović, Nanopoulos, Ivanović, "Hubs in Space", JMLR 11, 2010.
    """
    centred = counts.astype(np.float64) - counts.mean()
    spread = float(np.sqrt((centred**2).mean()))
    return float((centred**3).mean()) / spread**3 if spread else 0.0
