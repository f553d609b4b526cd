"""HOG (Dalal, Triggs, 2005): histograms of oriented gradients of the image at a fixed size, by scikit-image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from pipeline.core.extras import library
from pipeline.core.storage import Store
from pipeline.core.types import DescriptorBatch
from pipeline.decode import Decoded, Resize
from pipeline.extract import ImageSpec, at_least
from pipeline.features.encode import unit

LEAST_SIDE = 16


class Spec(ImageSpec):
    """side: images are resized to side x side; cell: pixels of a cell; block: cells of a block; L2-Hys blocks."""

    zero_means: ClassVar[str] = "the image has one colour"

    side: int = Field(default=128, ge=16, le=1024)
    cell: int = Field(default=16, ge=2)
    block: int = Field(default=2, ge=1, le=8)
    orientations: int = Field(default=9, ge=2, le=36)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.side // self.cell < self.block:
            raise ValueError("one block must fit: side / cell >= block")
        return self

    @property
    def dim(self) -> int:
        """Blocks x cells of a block x orientations."""
        return (self.side // self.cell - self.block + 1) ** 2 * self.block**2 * self.orientations

    @property
    def resizing(self) -> Resize:
        """To a square, whatever the image's shape."""
        return Resize(policy="exact", width=self.side, height=self.side)

    @property
    def nonnegative(self) -> bool:
        """Always: values are shares of pixels or of gradients."""
        return True

    @property
    def label(self) -> str:
        """Sizes in a few words."""
        return f"HOG of {self.side}x{self.side} pixels, cells of {self.cell}"

    def build(self, store: Store, device: torch.device) -> HogExtractor:  # noqa: ARG002 - nothing to load
        """Return the extractor; UserError when scikit-image is not installed."""
        return HogExtractor(self)


class HogExtractor:
    """See `pipeline.extract.Extractor`."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.dim = spec, spec.dim
        self._hog: Any = library("skimage.feature", "classical", "hog").hog

    def prepare(self, data: bytes) -> Decoded:
        """Decode, resize; a picture of a few pixels has no gradients worth the name."""
        return at_least(LEAST_SIDE, self.spec.decode(data), original=True)

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return descriptors (n, d), L2-normalised; zero for an image of one colour."""
        spec = self.spec
        settings = {
            "orientations": spec.orientations,
            "pixels_per_cell": (spec.cell, spec.cell),
            "cells_per_block": (spec.block, spec.block),
            "channel_axis": -1,
        }
        found = np.stack([self._hog(image.pixels, **settings) for image in images]).astype(np.float32)
        return DescriptorBatch.of_images(unit(found))
