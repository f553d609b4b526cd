"""SIFT (Lowe, 2004), RootSIFT (Arandjelović, Zisserman, 2012) and SURF (Bay et al., 2008): local descriptors.

OpenCV detects and describes SIFT, mahotas SURF; a recipe's `encode` makes one vector per image of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from pipeline.core.extras import library
from pipeline.core.storage import Store
from pipeline.core.types import DescriptorBatch, Floats
from pipeline.decode import Decoded, Resize
from pipeline.extract import ImageSpec, at_least
from pipeline.features.encode import unit

LEAST_SIDE = 10
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SURF_WINDOW = 20
"""Side of the square that SURF describes, in units of the scale."""


class Spec(ImageSpec):
    """descriptor: rootsift (square root of L1-normalised SIFT), sift (L2), or surf (64-d, mahotas).

    features: at most so many per image, those with the strongest response. contrast: SIFT's detection threshold.
    resize: as for every extractor; SIFT sees the image in grey.
    """

    local: ClassVar[bool] = True

    descriptor: Literal["rootsift", "sift", "surf"] = "rootsift"
    features: int = Field(default=1000, ge=1, le=20_000)
    contrast: float = Field(default=0.02, gt=0)
    resize: str = "longest:1024"

    @field_validator("resize")
    @classmethod
    def _check(cls, value: str) -> str:
        Resize.parse(value)
        return value

    @property
    def label(self) -> str:
        """The descriptor, and how many per image."""
        return f"{self.descriptor}, up to {self.features} per image"

    def build(self, store: Store, device: torch.device) -> SiftExtractor:  # noqa: ARG002 - nothing to load
        """Return the extractor; UserError when its library is not installed."""
        return SiftExtractor(self)


class SiftExtractor:
    """See `pipeline.extract.Extractor`. Images are taken one by one, by as many threads as there are passes."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.dim = 64 if spec.descriptor == "surf" else 128
        self._library = library("mahotas.features.surf" if spec.descriptor == "surf" else "cv2", "classical", "sift")
        if spec.descriptor != "surf":
            # Passes run side by side already; OpenCV's own threads would fight them.
            self._library.setNumThreads(1)

    def prepare(self, data: bytes) -> Decoded:
        """Decode and resize."""
        return at_least(LEAST_SIDE, self.spec.decode(data))

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return the descriptors of each image, the strongest first; an image of one colour has none."""
        describe = self._surf if self.spec.descriptor == "surf" else self._sift
        return DescriptorBatch.joined([describe(image) for image in images], self.dim)

    def _sift(self, image: Decoded) -> DescriptorBatch:
        # A detector keeps buffers: one per call, so that threads share nothing.
        detector = self._library.SIFT_create(nfeatures=self.spec.features, contrastThreshold=self.spec.contrast)
        grey = np.clip(image.pixels @ LUMA + 0.5, 0, 255).astype(np.uint8)
        keypoints, found = detector.detectAndCompute(grey, None)
        x = np.zeros((0, 128), np.float32) if found is None else np.asarray(found, np.float32)
        points = np.array([k.pt for k in keypoints], np.float32).reshape(-1, 2)
        return self._ordered(
            image, _root(x) if self.spec.descriptor == "rootsift" else unit(x), points, *_sizes(keypoints)
        )

    def _surf(self, image: Decoded) -> DescriptorBatch:
        grey = np.clip(image.pixels @ LUMA + 0.5, 0, 255).astype(np.uint8)
        # Columns: y, x, scale, score, sign of the Laplacian, orientation, then 64 values.
        found = np.asarray(self._library.surf(grey, max_points=self.spec.features)).reshape(-1, 70)
        found = found[np.isfinite(found).all(axis=1) & (np.abs(found[:, 6:]).max(axis=1, initial=0) > 0)]
        points, scales = found[:, [1, 0]].astype(np.float32), found[:, 2].astype(np.float32) * SURF_WINDOW
        return self._ordered(image, unit(found[:, 6:].astype(np.float32)), points, scales, found[:, 3])

    def _ordered(self, image: Decoded, x: Floats, points: Floats, sizes: Floats, scores: Any) -> DescriptorBatch:
        """Return the strongest, in an order that does not depend on how they were found; in pixels of the original."""
        scores = np.asarray(scores, np.float32)
        best = np.lexsort((sizes, points[:, 1], points[:, 0], -scores))[: self.spec.features]
        height, width = image.pixels.shape[:2]
        zoom = np.array([image.width / width, image.height / height], np.float32)
        half = sizes[best, None] / 2
        boxes = np.concatenate([(points[best] - half) * zoom, (points[best] + half) * zoom], axis=1)
        return DescriptorBatch(
            vectors=x[best],
            image_row=np.zeros(len(best), np.int64),
            boxes=boxes.astype(np.float32),
            scales=sizes[best],
            scores=scores[best],
        )


def _root(x: Floats) -> Floats:
    # L1, then the root: Euclidean distances are then Hellinger's, and the length is 1.
    return np.asarray(np.sqrt(x / np.maximum(x.sum(axis=1, keepdims=True), 1e-12)), dtype=np.float32)


def _sizes(keypoints: Sequence[Any]) -> tuple[Floats, Floats]:
    sizes = np.array([k.size for k in keypoints], np.float32)
    return sizes, np.array([k.response for k in keypoints], np.float32)
