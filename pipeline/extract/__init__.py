"""Extractors: what a descriptor is, one file per kind. Pixels in, descriptors out; no storage of results, no index.

`Spec.build(store, device)` loads weights by digest from ROOT and returns an `Extractor`, which lives in one worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch

from pipeline.core.specs import Spec
from pipeline.core.storage import Store
from pipeline.core.types import DescriptorBatch
from pipeline.decode import Decoded


class Extractor(Protocol):
    """A loaded descriptor. `dim` is the length d of its vectors, before whitening."""

    dim: int

    def prepare(self, data: bytes) -> Decoded:
        """Decode and resize one encoded image (any thread); BadImageError says why it cannot be used."""
        ...

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return descriptors of images that all have equal pixel shape; rows follow their order."""
        ...


class ExtractSpec(Spec):
    """Settings of an extractor; everything that changes its output, weights by digest."""

    family: ClassVar[str] = "pipeline.extract"

    def build(self, store: Store, device: torch.device) -> Extractor:
        """Load the weights from ROOT (verified against their digest) and return the extractor on `device`."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """A few words for status lines: descriptor, backbone and where its weights came from."""
        raise NotImplementedError
