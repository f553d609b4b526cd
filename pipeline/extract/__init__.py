"""Extractors: what a descriptor is, one file per kind. Pixels in, descriptors out; no storage of results, no index.

`Spec.build(store, device)` loads weights by digest from ROOT and returns an `Extractor`, which lives in one worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from pipeline.core.artifacts import read_artifact
from pipeline.core.errors import BadImageError
from pipeline.core.specs import Spec
from pipeline.core.storage import Store
from pipeline.core.types import Artifact, DescriptorBatch
from pipeline.decode import Decoded
from pipeline.features.backbones import build_backbone, load_state
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


def at_least(side: int, image: Decoded, *, original: bool = False) -> Decoded:
    """Return the image, or raise the BadImageError that says it is too small, after resizing or as it came."""
    height, width = (image.height, image.width) if original else image.pixels.shape[:2]
    if min(height, width) < side:
        when = "" if original else " after resizing"
        raise BadImageError(f"too small: {width}x{height}{when}, {side} pixels a side are needed")
    return image


HEADS = ("pool.", "projection.", "regional.", "local.")
"""Tensors of a weight file that are not the backbone's: learned exponents, the FC head, whitening of regions, of
positions."""
ATTENTION = ("attention.", "pca.")
"""The same for local features: their score, and their reduction."""


def load_network(
    store: Store, weights: Artifact, backbone: str, extras: tuple[str, ...]
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the backbone with its weights from ROOT (verified), and the tensors whose names begin with `extras`."""
    tensors = {name: value.float() for name, value in load_safetensors(read_artifact(store, weights)).items()}
    others = {name: value for name, value in tensors.items() if name.startswith(extras)}
    network = build_backbone(backbone)
    load_state(network, {name: value for name, value in tensors.items() if name not in others})
    return network, others


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
    def nonnegative(self) -> bool:
        """Whether no value of its vectors is ever below zero: their signs, before whitening, say nothing."""
        return False

    @property
    def label(self) -> str:
        """A few words for status lines: descriptor, backbone and where its weights came from."""
        raise NotImplementedError
