"""MOP (Gong et al., "Multi-scale orderless pooling", 2014): deep vectors of the whole image and of its patches.

The vectors are local descriptors whose scale is the side of their patch; the encoding `mop` makes one vector of them.
Patches are described by the pooled features of any backbone, where the paper has the fc7 of a CaffeNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.core.specs import NOT_IN_FINGERPRINT
from pipeline.core.storage import Store
from pipeline.core.types import Artifact, DescriptorBatch
from pipeline.decode import Decoded, Resize
from pipeline.extract import ATTENTION, HEADS, ImageSpec, at_least, load_network
from pipeline.features.backbones import BACKBONES
from pipeline.features.device import lane
from pipeline.features.fuse import optimized
from pipeline.features.normalize import IMAGENET_MEAN, IMAGENET_STD, l2_normalize, normalize_pixels
from pipeline.features.pooling import gem, spoc

LEAST_SIDE = 16


class Spec(ImageSpec):
    """side: images are resized to side x side. patches: their sides, the first is the whole image. stride: between
    patches, in pixels. pooling: of a patch's map, spoc (mean) or gem.
    """

    gpu: ClassVar[bool] = True
    local: ClassVar[bool] = True

    backbone: str
    weights: Artifact
    origin: str = Field(default="", json_schema_extra=NOT_IN_FINGERPRINT)
    side: int = Field(default=256, ge=32, le=1024)
    patches: tuple[int, ...] = (256, 128, 64)
    stride: int = Field(default=32, ge=1)
    pooling: Literal["spoc", "gem"] = "spoc"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone {self.backbone!r} is not known; choose one of {', '.join(sorted(BACKBONES))}")
        least = BACKBONES[self.backbone].min_side
        if self.patches[:1] != (self.side,) or list(self.patches) != sorted(set(self.patches), reverse=True):
            raise ValueError("patches begin with the side of the image and become smaller")
        if self.patches[-1] < least:
            raise ValueError(f"{self.backbone} takes patches of {least} pixels at least")
        return self

    @property
    def resizing(self) -> Resize:
        """To a square, whatever the image's shape."""
        return Resize(policy="exact", width=self.side, height=self.side)

    @property
    def label(self) -> str:
        """Patches, backbone, weights."""
        sides = ", ".join(map(str, self.patches))
        return f"mop of {self.backbone}, patches of {sides} ({self.origin or self.weights.sha256[:12]})"

    def build(self, store: Store, device: torch.device) -> MopExtractor:
        """Load the weights (verified) and return the extractor on `device`."""
        network, _ = load_network(store, self.weights, self.backbone, (*HEADS, *ATTENTION))
        return MopExtractor(self, network, device)


class MopExtractor:
    """The loaded descriptor; see `pipeline.extract.Extractor`."""

    def __init__(self, spec: Spec, network: nn.Module, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self._lane = lane(device)
        self.take_device_seconds = self._lane.clock
        self._network = optimized(network, device, torch.float32)
        self.dim = BACKBONES[spec.backbone].channels

    def prepare(self, data: bytes) -> Decoded:
        """Decode, resize to a square; a picture of a few pixels has no patches worth the name."""
        return at_least(LEAST_SIDE, self.spec.decode(data), original=True)

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return the vectors of each image's patches, the whole first, then level by level in reading order."""
        spec = self.spec
        with self._lane.running():
            x = normalize_pixels(self._lane.put([image.pixels for image in images]), spec.mean, spec.std)
            with self._lane.arithmetic():
                made = [
                    torch.cat([self._level(x[number : number + 1], patch) for patch in spec.patches])
                    for number in range(len(images))
                ]
            vectors = self._lane.fetch(*made)
        described = [self._described(image, found) for image, found in zip(images, vectors, strict=True)]
        return DescriptorBatch.joined(described, self.dim)

    def _described(self, image: Decoded, vectors: np.ndarray) -> DescriptorBatch:
        spec = self.spec
        places = [self._boxes(patch) for patch in spec.patches]
        zoom = np.array([image.width / spec.side, image.height / spec.side] * 2, np.float32)
        sides = np.repeat(np.array(spec.patches, np.float32), [len(boxes) for boxes in places])
        return DescriptorBatch(
            vectors=vectors,
            image_row=np.zeros(len(sides), np.int64),
            boxes=np.concatenate(places) * zoom,
            scales=sides,
            scores=np.ones(len(sides), np.float32),
        )

    def _level(self, x: Tensor, patch: int) -> Tensor:
        """Return the vectors (P,C) of the patches of one size."""
        cut = torch.cat([x[:, :, top : top + patch, left : left + patch] for top, left in self._corners(patch)])
        features = self._network(cut.contiguous(memory_format=torch.channels_last)).float()
        pooled = gem(features) if self.spec.pooling == "gem" else spoc(features)
        return l2_normalize(pooled)

    def _corners(self, patch: int) -> list[tuple[int, int]]:
        """Return (top, left) of the patches of one size in reading order."""
        starts = range(0, self.spec.side - patch + 1, self.spec.stride)
        return [(top, left) for top in starts for left in starts]

    def _boxes(self, patch: int) -> np.ndarray:
        """Return the boxes (P,4) of the patches of one size, in pixels of the square."""
        places = [(left, top, left + patch, top + patch) for top, left in self._corners(patch)]
        return np.array(places, np.float32)
