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


def principal_axes(x: Floats, dims: int) -> tuple[Floats, Floats]:
    """Return the mean (d,) and the first principal axes (d, <= dims) of x (n, d): those with variance, below n.

    Signs are fixed, the largest component positive, so that the result is a function of x alone.
    """
    mean = x.mean(axis=0, dtype=np.float64)
    centred = x - mean
    if len(x) > x.shape[1]:
        variances, columns = np.linalg.eigh(centred.T @ centred)
        variances, axes = variances[::-1], columns[:, ::-1].T
    else:
        _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
        variances = lengths**2
    keep = max(1, min(dims, int((variances > 1e-12 * max(variances[0], 1e-300)).sum()), len(x) - 1))
    axes = axes[:keep]
    signs = np.sign(axes[np.arange(keep), np.abs(axes).argmax(axis=1)])
    return mean.astype(np.float32), (axes * signs[:, None]).T.astype(np.float32)
