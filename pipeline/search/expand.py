"""Query expansion and database augmentation, as DIR's `expand_descriptors`. Pure arithmetic."""

from __future__ import annotations

import numpy as np

from pipeline.core.types import Floats


def expand(vectors: Floats, neighbours: Floats, alpha: float) -> Floats:
    """Return L2(x + Σ_j max(0, x·n_j)^alpha n_j) for vectors (q, d) and their k nearest neighbours (q, k, d).

    DIR raises negative similarities as they are, which flips their sign for odd alpha; they are clamped at 0 here.
    """
    weights = np.clip(np.einsum("qd,qkd->qk", vectors, neighbours), 0.0, None)
    weights = np.where(weights > 0, weights**alpha, 0.0)
    summed = vectors + np.einsum("qk,qkd->qd", weights, neighbours)
    norms = np.linalg.norm(summed, axis=1, keepdims=True)
    return np.asarray(summed / np.maximum(norms, 1e-12), dtype=np.float32)


def augment(database: Floats, k: int, alpha: float) -> Floats:
    """Return the database (n, d) with each vector expanded by its k nearest others (α-DBA); O(n²), for small n."""
    similarity = database @ database.T
    np.fill_diagonal(similarity, 0.0)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return expand(database, database[nearest], alpha)
