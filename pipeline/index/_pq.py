"""Code sizes of product quantisers: which are possible over a dimension, and how far vectors are padded for one.

m codes want a dimension that m divides. Dimensions of few divisors (286, 899, primes) are padded by the rotation before
the codes: rotations keep inner products, and nothing but the time of a look-up table is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from pipeline.core.types import Floats

Codes = npt.NDArray[np.uint8]
GPU_M = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
"""Code sizes that faiss's GPU index takes (56 and above with float16 tables)."""
ROUND = 32
"""Dimensions that are padded have the code size of the next multiple of this."""
MUCH = 5 / 8
"""Share of the best code size from which one is taken that needs no padding."""
LITTLE = 1.3
"""Share of the dimension that vectors are padded to at most, unless a code size is stated."""
MOST, LEAST = 64, 8
"""Bounds of the code size, in bytes, that is chosen without a budget: about a quarter of the dimension."""


def padded(dim: int, m: int) -> int:
    """Return the least dimension, from `dim` on, that m codes divide."""
    return -(-dim // m) * m


def sizes(dim: int, *, gpu: bool) -> list[int]:
    """Return the numbers of codes that are possible: no more than dimensions; those of faiss's GPU index if asked."""
    return [m for m in (GPU_M if gpu else range(1, dim + 1)) if m <= dim]


def chosen(dim: int, *, codes_per_byte: int, fits: Callable[[int], bool] | None) -> int | None:
    """Return the number of codes for a dimension: the largest that fits a budget, else by the dimension; None if none.

    One that divides the dimension is taken unless it is much smaller than the best.
    """
    possible = sizes(dim, gpu=codes_per_byte == 1)
    if fits is None:
        plain, rounded = (min(MOST, max(LEAST, d // 4)) * codes_per_byte for d in (dim, padded(dim, ROUND)))
        whole, best = _dividing(dim, possible, lambda m: m <= plain), max(m for m in possible if m <= plain)
        return whole if whole >= MUCH * best else _padding(dim, possible, rounded)
    best = max(filter(fits, possible), default=0)
    whole = _dividing(dim, possible, fits)
    return (whole if whole >= MUCH * best else best) or None


def _padding(dim: int, possible: Iterable[int], limit: int) -> int:
    """Return the largest number of codes up to a limit for which little padding is enough."""
    return max(m for m in possible if m <= limit and padded(dim, m) <= LITTLE * dim)


def _dividing(dim: int, possible: Iterable[int], fits: Callable[[int], bool]) -> int:
    return max((m for m in possible if dim % m == 0 and fits(m)), default=0)


def rotation(points: Floats, *, m: int, width: int, bits: int, seed: int) -> Any:
    """Return an OPQ rotation of points (n, d) into `width` dimensions, those beyond d being zero before it."""
    dim = points.shape[1]
    codebook = faiss.ProductQuantizer(width, m, bits)
    codebook.cp.seed, codebook.cp.min_points_per_centroid = seed + 1234, 1
    turn = faiss.OPQMatrix(width, m)
    turn.niter, turn.verbose, turn.pq = 20, False, codebook
    turn.train(np.ascontiguousarray(np.pad(points, ((0, 0), (0, width - dim)))))
    if width == dim:
        return turn
    matrix = faiss.vector_to_array(turn.A).reshape(width, width)[:, :dim]
    return linear(np.ascontiguousarray(matrix))


def random_rotation(dim: int, width: int, seed: int) -> Any:
    """Return a random rotation from `dim` into more dimensions."""
    return linear(random_matrix(dim, width, seed))


def random_matrix(dim: int, width: int, seed: int) -> Floats:
    """Return its matrix (width, dim)."""
    drawn = faiss.RandomRotationMatrix(dim, width)
    # The last bits of a factorisation depend on how it is split.
    with threadpool_limits(1):
        drawn.init(seed + 5)
    matrix: Floats = faiss.vector_to_array(drawn.A).reshape(width, dim)
    return matrix


def linear(matrix: Floats) -> Any:
    """Return the faiss transform of a matrix (d_out, d_in)."""
    transform = faiss.LinearTransform(matrix.shape[1], matrix.shape[0], False)
    faiss.copy_array_to_vector(np.ascontiguousarray(matrix, np.float32).ravel(), transform.A)
    transform.is_trained = True
    return transform
