"""k-means, product codebooks and OPQ rotations by torch, on the device that the points lie on, in strict float32.

The algorithms are those of faiss: Lloyd's, from points drawn at random, empty clusters split from the largest; OPQ by
alternating codebooks and rotation (Ge et al., "Optimized product quantization", 2013). Sums are taken over sorted
segments and not by atomic additions, so that the same input gives the same bits on the same kind of device.

Suffixes: M subspaces, N points, K centroids, S dimensions of a subspace, W dimensions of a whole vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

Tensor = torch.Tensor

POINTS_PER_CENTROID = 256
"""More points do not move a centroid; the others are left out, as faiss does."""
SPLIT = 1 / 1024
"""How far, relatively, the halves of a split cluster are moved apart."""
OPQ_ROUNDS, FIRST_STEPS, NEXT_STEPS = 20, 40, 4
"""Rotations that follow one another; steps of k-means for the codebooks of the first and of each other one."""


@contextmanager
def strict() -> Iterator[None]:
    """Multiply in float32 proper: TF32 has 10 bits of mantissa, and assigns points to other centroids."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def nearest(points_MNS: Tensor, centroids_MKS: Tensor, *, spherical: bool, at_once: int) -> Tensor:  # noqa: N803
    """Return the centroid of each point (M, N): by inner product if spherical, else by distance; ties to the first.

    at_once: values of the matrix of scores that are held at a time.
    """
    subspaces, rows = points_MNS.shape[:2]
    half_M1K = None if spherical else (centroids_MKS**2).sum(2)[:, None] / 2  # noqa: N806
    step = max(1, at_once // (subspaces * centroids_MKS.shape[1]))
    found = torch.empty((subspaces, rows), dtype=torch.int64, device=points_MNS.device)
    for start in range(0, rows, step):
        scores = torch.bmm(points_MNS[:, start : start + step], centroids_MKS.mT)
        if half_M1K is not None:
            scores -= half_M1K
        found[:, start : start + step] = scores.argmax(2)
    return found


def kmeans(
    points_MNS: Tensor,  # noqa: N803
    start: int | Tensor,
    *,
    steps: int,
    seed: int,
    spherical: bool,
    at_once: int,
) -> Tensor:
    """Return centroids (M, K, S) of points (M, N, S), N >= K; start: K, or centroids to go on from.

    spherical: centroids of length one, nearest by inner product.
    """
    centroids = _drawn(points_MNS, start, seed) if isinstance(start, int) else start
    for _ in range(steps):
        found = nearest(points_MNS, centroids, spherical=spherical, at_once=at_once)
        centroids = torch.stack(
            [_means(points, mine, centroids.shape[1], at_once) for points, mine in zip(points_MNS, found, strict=True)]
        )
        if spherical:
            centroids = torch.nn.functional.normalize(centroids, dim=2)
    return centroids


def _drawn(points_MNS: Tensor, count: int, seed: int) -> Tensor:  # noqa: N803
    places = np.random.default_rng(seed).permutation(points_MNS.shape[1])[:count]
    return points_MNS[:, torch.from_numpy(places).to(points_MNS.device)]


def _means(points_NS: Tensor, found_N: Tensor, count: int, at_once: int) -> Tensor:  # noqa: N803
    """Return the means (K, S) of the points of each cluster; empty ones take half of a large one."""
    counts = torch.bincount(found_N, minlength=count)
    order = torch.argsort(found_N, stable=True)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    step = max(1, at_once // max(1, len(points_NS)))
    sums = [
        torch.segment_reduce(points_NS[:, start : start + step][order], "sum", offsets=offsets, axis=0)
        for start in range(0, points_NS.shape[1], step)
    ]
    means = torch.cat(sums, dim=1) / counts.clamp(min=1)[:, None]
    empty = torch.nonzero(counts == 0)[:, 0]
    return _split(means, counts, empty) if len(empty) else means


def _split(means_KS: Tensor, counts_K: Tensor, empty: Tensor) -> Tensor:  # noqa: N803
    """Give each empty cluster half of one of the largest: the mean moved a little to either side."""
    donors = torch.argsort(counts_K, descending=True, stable=True)[: len(counts_K) - len(empty)]
    turn = torch.arange(len(empty), device=empty.device)
    mine = donors[turn % len(donors)]
    apart = SPLIT * (1 - 2 * (torch.arange(means_KS.shape[1], device=empty.device) % 2))
    apart = apart * (1 + turn // len(donors))[:, None]
    whole = means_KS[mine]
    means_KS = means_KS.clone()  # noqa: N806
    means_KS[empty] = whole * (1 + apart)
    first = turn < len(donors)
    means_KS[mine[first]] = (whole * (1 - apart))[first]
    return means_KS


def sliced(points_NW: Tensor, m: int) -> Tensor:  # noqa: N803
    """Return vectors (N, W) as points (M, N, S) of m subspaces."""
    return points_NW.reshape(len(points_NW), m, -1).transpose(0, 1).contiguous()


def decoded(codes_MN: Tensor, codebooks_MKS: Tensor) -> Tensor:  # noqa: N803
    """Return the vectors (N, W) that codes (M, N) stand for."""
    parts = torch.stack([book[codes] for book, codes in zip(codebooks_MKS, codes_MN, strict=True)])
    return parts.transpose(0, 1).reshape(codes_MN.shape[1], -1)


def opq(points_NW: Tensor, *, m: int, codes: int, seed: int, at_once: int) -> Tensor:  # noqa: N803
    """Return the rotation R (W, W) for which the codebooks of m subspaces lose least of x R^T.

    Given codebooks, the best rotation onto the decoded points D is U V^T, of the singular vectors of D^T x = U S V^T
    (orthogonal Procrustes problem).
    """
    width = points_NW.shape[1]
    x = points_NW - points_NW.mean(0)
    drawn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    turn = torch.from_numpy(drawn.astype(np.float32)).to(x.device)
    books: int | Tensor = codes
    for number in range(OPQ_ROUNDS):
        rotated = sliced(x @ turn.T, m)
        steps = NEXT_STEPS if number else FIRST_STEPS
        books = kmeans(rotated, books, steps=steps, seed=seed, spherical=False, at_once=at_once)
        onto = decoded(nearest(rotated, books, spherical=False, at_once=at_once), books)
        # One small decomposition, whose last bits are not to depend on the device.
        left, _, right = torch.linalg.svd((onto.T @ x).double().cpu())
        turn = (left @ right).float().to(x.device)
    return turn
