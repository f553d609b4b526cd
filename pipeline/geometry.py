"""Geometry between two images: matches of local descriptors, and the affine map that most of them agree on.

Matching is Lowe's ratio test, or DELF's bound on the distance; RANSAC is OpenCV's, whose random numbers start anew with
every call, so that a result repeats itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.core.extras import library
from pipeline.core.types import DescriptorBatch, Floats, Ints

LEAST = 4
"""Matches that are tried at all: three determine an affine map and agree with it by themselves."""


@dataclass(frozen=True, kw_only=True)
class Matching:
    """ratio: nearest over second nearest distance, below which a match counts; 1 leaves the test out. distance: bound
    on the distance of unit descriptors (DELF .8, DELG 1.0). residual: of an inlier, as a share of the longer side of
    the indexed image (.02 is 20 pixels of 1024, as in DELF's example). trials: of RANSAC at most.
    """

    ratio: float = 0.8
    distance: float = 2.0
    residual: float = 0.02
    trials: int = 2000


@dataclass(frozen=True, kw_only=True)
class Verified:
    """inliers: matches that agree. affine (2, 3) maps pixels of the query to those of the image; None without any."""

    inliers: int
    affine: Floats | None = None

    def box(self, width: float, height: float, bounds: tuple[int, int]) -> tuple[float, float, float, float] | None:
        """Return where a query of width x height lies in the image of `bounds`: x, y, width, height; None if outside.

        The box around the mapped corners, cut at the borders.
        """
        if self.affine is None:
            return None
        corners = (
            np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ self.affine[:, :2].T + self.affine[:, 2]
        )
        (left, top), (right, bottom) = np.clip(corners.min(axis=0), 0, bounds), np.clip(corners.max(axis=0), 0, bounds)
        if right - left < 1 or bottom - top < 1:
            return None
        return float(left), float(top), float(right - left), float(bottom - top)


def centres(batch: DescriptorBatch) -> Floats:
    """Return where local descriptors lie, (m, 2) as x, y."""
    assert batch.boxes is not None, "only local descriptors lie somewhere"
    return np.asarray((batch.boxes[:, :2] + batch.boxes[:, 2:]) / 2, dtype=np.float32)


def matches(query: Floats, image: Floats, matching: Matching) -> tuple[Ints, Ints]:
    """Return rows of the query (m, d) and of the image (n, d) that match; unit vectors. Each row of an image once."""
    if not len(query) or not len(image):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    similarity = query @ image.T
    best = similarity.argmax(axis=1)
    rows = np.arange(len(query))
    nearest = np.sqrt(np.maximum(0.0, 2 - 2 * similarity[rows, best]))
    good = nearest <= matching.distance
    if matching.ratio < 1 and image.shape[0] > 1:
        similarity[rows, best] = -np.inf
        second = np.sqrt(np.maximum(0.0, 2 - 2 * similarity.max(axis=1)))
        good &= nearest < matching.ratio * second
    left, right = rows[good], best[good]
    # Where several rows of the query want the same of the image, the nearest has it: repeated texture votes once.
    order = np.lexsort((left, nearest[good]))
    _, first = np.unique(right[order], return_index=True)
    keep = np.sort(order[first])
    return left[keep].astype(np.int64), right[keep].astype(np.int64)


def verify(query: DescriptorBatch, image: DescriptorBatch, longest: int, matching: Matching) -> Verified:
    """Match two sets of local descriptors and count those that one affine map explains. longest: the image's side."""
    left, right = matches(query.vectors, image.vectors, matching)
    if len(left) < LEAST:
        return Verified(inliers=0)
    cv2 = library("cv2", "classical", "verification by geometry")
    affine, inside = cv2.estimateAffine2D(
        centres(query)[left],
        centres(image)[right],
        method=cv2.RANSAC,
        ransacReprojThreshold=max(2.0, matching.residual * longest),
        maxIters=matching.trials,
        confidence=0.999,
    )
    if affine is None or int(inside.sum()) < LEAST or not _plausible(affine[:, :2]):
        return Verified(inliers=0)
    return Verified(inliers=int(inside.sum()), affine=np.asarray(affine, np.float32))


def _plausible(linear: Floats) -> bool:
    """Whether a map neither folds the image to a line, nor mirrors it, nor scales it beyond what photographs show."""
    if not np.isfinite(linear).all() or np.linalg.det(linear) <= 0:
        return False
    large, small = np.linalg.svd(linear, compute_uv=False)
    return bool(large < 20 and small > 0.05 and large < 6 * small)
