"""Extractors: what a descriptor is, one file per kind. Pixels in, descriptors out; no storage of results, no index.

`Spec.build(store, device)` loads weights by digest from ROOT and returns an `Extractor`, which lives in one worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch

from pipeline.core.errors import BadImageError
from pipeline.core.specs import Spec
from pipeline.core.storage import Store
from pipeline.core.types import DescriptorBatch
from pipeline.decode import Decoded
from pipeline.features.encoding import Encoder


class Extractor(Protocol):
    """A loaded descriptor. `dim` is the length d of its vectors, before whitening."""

    dim: int

    def prepare(self, data: bytes) -> Decoded:
        """Decode and resize one encoded image (any thread); BadImageError says why it cannot be used."""
        ...

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return descriptors of images that all have equal pixel shape; rows follow their order.

        A global descriptor gives one row per image, a local one any number, also none.
        """
        ...


def at_least(side: int, image: Decoded) -> Decoded:
    """Return the image, or raise the BadImageError that says it is too small."""
    height, width = image.pixels.shape[:2]
    if min(height, width) < side:
        raise BadImageError(f"too small: {width}x{height} after resizing, {side} pixels a side are needed")
    return image


class Encoded:
    """An extractor of local descriptors with an encoding: one vector per image. See `Extractor`."""

    def __init__(self, extractor: Extractor, encoder: Encoder) -> None:
        self._extractor, self._encoder = extractor, encoder
        self.dim = encoder.dim(extractor.dim)
        self.prepare = extractor.prepare

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return one vector for each image that has local descriptors."""
        return self._encoder.apply(self._extractor.extract(images), len(images))


class ExtractSpec(Spec):
    """Settings of an extractor; everything that changes its output, weights by digest."""

    family: ClassVar[str] = "pipeline.extract"
    local: ClassVar[bool] = False
    """True for a kind that gives any number of descriptors per image."""

    def build(self, store: Store, device: torch.device) -> Extractor:
        """Load the weights from ROOT (verified against their digest) and return the extractor on `device`."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """A few words for status lines: descriptor, backbone and where its weights came from."""
        raise NotImplementedError
