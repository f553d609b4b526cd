"""Codebooks: k-means by faiss, repeatable."""

from __future__ import annotations

import numpy as np

from pipeline.core.types import Floats

ROWS_PER_WORD = 256
"""Points per centroid beyond which more change nothing but the time."""


def kmeans(x: Floats, words: int, seed: int) -> Floats:
    """Return centroids (words, d) of points (n, d), n >= words. By the calling thread's share of threads."""
    import faiss

    clustering = faiss.Kmeans(
        x.shape[1], words, niter=20, seed=seed + 1, max_points_per_centroid=ROWS_PER_WORD, verbose=False
    )
    # faiss would warn about samples below 39 a word; small collections are as they are.
    clustering.cp.min_points_per_centroid = 1
    clustering.train(np.ascontiguousarray(x))
    return np.asarray(clustering.centroids, dtype=np.float32)
