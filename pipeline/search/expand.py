"""Query expansion and database augmentation, as DIR's `expand_descriptors`. Pure arithmetic."""

from __future__ import annotations

import numpy as np

from pipeline.core.types import Floats, Ints

_CHUNK = 1024


def expand(vectors: Floats, neighbours: Floats, alpha: float) -> Floats:
    """Return L2(x + Σ_j max(0, x·n_j)^alpha n_j) for vectors (q, d) and their k nearest neighbours (q, k, d).

    DIR raises negative similarities as they are, which flips their sign for odd alpha; they are clamped at 0 here.
    """
    return weighted(vectors, neighbours, np.einsum("qd,qkd->qk", vectors, neighbours), alpha)


def weighted(vectors: Floats, neighbours: Floats, similarity: Floats, alpha: float) -> Floats:
    """Return the same of neighbours whose similarity (q, k) is known; those of zero or less have no weight."""
    weights = np.clip(similarity, 0.0, None)
    weights = np.where(weights > 0, weights**alpha, 0.0)
    summed = vectors + np.einsum("qk,qkd->qd", weights, neighbours)
    norms = np.linalg.norm(summed, axis=1, keepdims=True)
    return np.asarray(summed / np.maximum(norms, 1e-12), dtype=np.float32)


def augment(database: Floats, k: int, alpha: float) -> Floats:
    """Return the database (n, d) with each vector expanded by its k nearest others (α-DBA); O(n²) products."""
    parts = [database[:0]]
    for start in range(0, len(database), _CHUNK):
        mine = database[start : start + _CHUNK]
        similarity = mine @ database.T
        # DIR sets the diagonal to zero. An image then comes among its k nearest where fewer are similar to it, and must
        # have no weight: it is no neighbour of its own.
        similarity[np.arange(len(mine)), np.arange(start, start + len(mine))] = 0.0
        nearest = best(similarity, k)
        parts.append(weighted(mine, database[nearest], np.take_along_axis(similarity, nearest, axis=1), alpha))
    return np.concatenate(parts)


def best(similarity: Floats, k: int) -> Ints:
    """Return the columns (n, k) of the largest values of each row, best first; the first wins ties."""
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]
