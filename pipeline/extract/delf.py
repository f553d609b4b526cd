"""DELF: attentive deep local features of an image pyramid; several descriptors per image, with boxes and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from pipeline.features.attention import CUTS, Attention, LocalMap, boxes, norm_attention
from pipeline.features.device import lane
from pipeline.features.fuse import optimized
from pipeline.features.normalize import IMAGENET_MEAN, IMAGENET_STD, l2_normalize, normalize_pixels

LEAST_SIDE = 10
"""Images below are not described, as in DELF; the same goes for levels of the pyramid."""
SCALES = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
"""DELF's image pyramid."""


class Spec(ImageSpec):
    """Settings of deep local features.

    weights: safetensors with torchvision's names; `attention.*` for a learned score, `pca.mean` (d,) and
    `pca.components` (k, d) for a reduction that belongs to them (otherwise the recipe's whitening or encoding reduces).
    attention: learned is DELF's head, norm the feature's own length. threshold: least score. features: at most so many
    per image, over all scales, by score. mean and std: DELF's TensorFlow networks take (x - 128) / 128.
    """

    gpu: ClassVar[bool] = True
    local: ClassVar[bool] = True

    backbone: str = "resnet50"
    weights: Artifact
    origin: str = Field(default="", json_schema_extra=NOT_IN_FINGERPRINT)
    attention: Literal["learned", "norm"] = "norm"
    threshold: float = 0.0
    features: int = Field(default=1000, ge=1, le=20_000)
    scales: tuple[float, ...] = SCALES
    resize: str = "longest:1024"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.backbone not in CUTS:
            raise ValueError(f"backbone {self.backbone!r} has no local features; choose one of {', '.join(CUTS)}")
        if not self.scales or not all(0 < s <= 4 for s in self.scales):
            raise ValueError("scales must be one or more numbers in ]0, 4]")
        Resize.parse(self.resize)
        return self

    @property
    def label(self) -> str:
        """Backbone, attention and origin of the weights."""
        return f"delf of {self.backbone}, {self.attention} attention ({self.origin or self.weights.sha256[:12]})"

    def build(self, store: Store, device: torch.device) -> DelfExtractor:
        """Load the weights (verified) and return the extractor on `device`."""
        network, extras = load_network(store, self.weights, self.backbone, (*HEADS, *ATTENTION))
        return DelfExtractor(self, network, extras, device)


class DelfExtractor:
    """The loaded descriptor; see `pipeline.extract.Extractor`."""

    def __init__(self, spec: Spec, network: nn.Module, extras: dict[str, Tensor], device: torch.device) -> None:
        self.spec, self.device = spec, device
        self._cut = CUTS[spec.backbone]
        self._network = optimized(LocalMap(network, self._cut), device, torch.float32)
        self._lane = lane(device)
        self.take_device_seconds = self._lane.clock
        extras = {name: value.to(device) for name, value in extras.items()}
        self._score = Attention(extras) if spec.attention == "learned" else norm_attention
        self._pca: tuple[Tensor, Tensor] | None = None
        if "pca.components" in extras:
            self._pca = (extras["pca.mean"], extras["pca.components"])
        self.dim = self._cut.channels if self._pca is None else len(self._pca[1])

    def prepare(self, data: bytes) -> Decoded:
        """Decode and resize; images below 10 pixels a side are refused."""
        return at_least(LEAST_SIDE, self.spec.decode(data))

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return the best-scored descriptors of each image over all scales, L2-normalised, best first."""
        with self._lane.running():
            x = normalize_pixels(self._lane.put([image.pixels for image in images]), self.spec.mean, self.spec.std)
            with self._lane.arithmetic():
                levels = [found for scale in self.spec.scales if (found := self._level(x, scale)) is not None]
            if not levels:
                return DescriptorBatch.joined([_nothing(self.dim)] * len(images), self.dim)
            (scores,) = self._lane.fetch(torch.cat([level.scores for level in levels], dim=1))
            orders = [self._order(torch.from_numpy(row)) for row in scores]
            vectors = self._lane.fetch(*self._vectors(levels, orders))
        return DescriptorBatch.joined(
            [
                _described(image, levels, order, (torch.from_numpy(row), found))
                for image, order, row, found in zip(images, orders, scores, vectors, strict=True)
            ],
            self.dim,
        )

    def _level(self, x: Tensor, scale: float) -> _Level | None:
        """Return what one scale has; None for one that is too small."""
        height, width = round(x.shape[2] * scale), round(x.shape[3] * scale)
        if min(height, width) < LEAST_SIDE:
            return None
        if scale != 1.0:
            x = nn.functional.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
        features = self._network(x.contiguous(memory_format=torch.channels_last)).float()
        scores: Tensor = self._score(features)
        places = boxes(features.shape[2], features.shape[3], self._cut, scale)
        features = features.flatten(2).transpose(1, 2)
        return _Level(features=features, scores=scores.flatten(1), boxes=places, scale=scale)

    def _order(self, scores: Tensor) -> Tensor:
        """Return which positions of an image are described, the best first."""
        spec = self.spec
        # A stable sort: equal scores keep the order of scales and positions.
        order = torch.sort(scores, descending=True, stable=True).indices
        return order[scores[order] >= spec.threshold][: spec.features] if spec.threshold else order[: spec.features]

    def _vectors(self, levels: Sequence[_Level], orders: Sequence[Tensor]) -> list[Tensor]:
        """Return the vectors (n, d) of the positions of each image that are described."""
        found = []
        with self._lane.arithmetic():
            for number, order in enumerate(orders):
                features = torch.cat([level.features[number] for level in levels])
                vectors = l2_normalize(features[self._lane.put([order.numpy()])[0]])
                if self._pca is not None:
                    vectors = l2_normalize((vectors - self._pca[0]) @ self._pca[1].T)
                found.append(vectors)
        return found


@dataclass(frozen=True, kw_only=True)
class _Level:
    """One scale of a pass: features (N,P,C) and scores (N,P) on the device, boxes (P,4) on the host."""

    features: Tensor
    scores: Tensor
    boxes: Tensor
    scale: float


def _described(
    image: Decoded, levels: Sequence[_Level], order: Tensor, found: tuple[Tensor, np.ndarray]
) -> DescriptorBatch:
    """Return the descriptors of an image: (scores of all positions, vectors of those described)."""
    scores, vectors = found
    places = torch.cat([level.boxes for level in levels])
    scales = torch.cat([torch.full((len(level.boxes),), level.scale) for level in levels])
    height, width = image.pixels.shape[:2]
    zoom = torch.tensor([image.width / width, image.height / height] * 2)
    return DescriptorBatch(
        vectors=vectors,
        image_row=np.zeros(len(order), np.int64),
        boxes=(places[order] * zoom).numpy().astype(np.float32),
        scales=scales[order].numpy().astype(np.float32),
        scores=scores[order].numpy().astype(np.float32),
    )


def _nothing(dim: int) -> DescriptorBatch:
    """Return the descriptors of an image that every level of the pyramid makes too small."""
    column = np.zeros(0, np.float32)
    return DescriptorBatch(
        vectors=np.zeros((0, dim), np.float32),
        image_row=np.zeros(0, np.int64),
        boxes=np.zeros((0, 4), np.float32),
        scales=column,
        scores=column,
    )
