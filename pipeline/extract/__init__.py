"""Extractors: what a descriptor is, one file per kind. Pixels in, descriptors out; no storage of results, no index.

`Spec.build(store, device)` loads weights by digest from ROOT and returns an `Extractor`, which lives in one worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from PIL import ImageColor
from pydantic import Field, JsonValue, field_validator
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from pipeline.core.artifacts import read_artifact
from pipeline.core.errors import BadImageError
from pipeline.core.specs import Spec
from pipeline.core.storage import Store
from pipeline.core.types import Artifact, DescriptorBatch, Floats
from pipeline.core.vectors import VectorBlock
from pipeline.decode import Decoded, Limits, Rendering, Resize, decode, needed
from pipeline.decode.colour import Colour, Grey16
from pipeline.features.backbones import build_backbone, load_state
from pipeline.features.encoding import Encoder
from pipeline.features.usable import usable


class Extractor(Protocol):
    """A loaded descriptor. `dim` is the length d of its vectors, before whitening.

    One that computes on a device with a clock of its own has `take_device_seconds`: for how long it computed passes
    since it was last asked, see `device_clock`. One whose passes can be replayed has `use_graphs`, which asks for it.
    """

    dim: int

    def prepare(self, data: bytes) -> Decoded:
        """Decode and resize one encoded image (any thread); BadImageError says why it cannot be used."""
        ...

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return descriptors of images that all have equal pixel shape; rows follow their order.

        A global descriptor gives one row per image, a local one any number, also none.
        """
        ...


class VectorExtractor(Extractor, Protocol):
    """An extractor that also takes vectors by the block; what it says of one is what `prepare` and `extract` say."""

    def normalized(self, block: VectorBlock) -> tuple[Floats, dict[int, str]]:
        """Return the vectors that can be used, (m, d) float32 in their order, and the reasons of other rows by place.

        Rows that are null are among neither.
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


def device_clock(extractor: Extractor) -> Callable[[], float] | None:
    """Return what tells for how long an extractor's device has computed; None where that is the caller's own time."""
    clock: Callable[[], float] | None = getattr(extractor, "take_device_seconds", None)
    return clock


class Encoded:
    """An extractor of local descriptors with an encoding: one vector per image. See `Extractor`."""

    def __init__(self, extractor: Extractor, encoder: Encoder) -> None:
        self._extractor, self._encoder = extractor, encoder
        self.dim = encoder.dim(extractor.dim)
        self.prepare = extractor.prepare
        self.take_device_seconds = device_clock(extractor)

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return one vector for each image that has local descriptors."""
        # The codebook takes them as float16, in which they are stored.
        local = usable(self._extractor.extract(images), "float16")
        return self._encoder.apply(local, len(images))


class ExtractSpec(Spec):
    """Settings of an extractor; everything that changes its output, weights by digest."""

    family: ClassVar[str] = "pipeline.extract"
    gpu: ClassVar[bool] = False
    """True for a kind that computes on a GPU where there is one; others are built for the CPU, and hold none."""
    local: ClassVar[bool] = False
    """True for a kind that gives any number of descriptors per image."""
    zero_means: ClassVar[str] = ""
    """What an image is like whose descriptor is zero, where the kind can say it."""
    takes_vectors: ClassVar[bool] = False
    """True where `build` returns a VectorExtractor."""

    def weigh(self, data: bytes) -> int:
        """Return about how many bytes of memory preparing an encoded image takes."""
        return len(data)

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


class ImageSpec(ExtractSpec):
    """Settings of an extractor of encoded images: how they are decoded, see `pipeline.decode`.

    max_pixels: larger images are rejected; a JPEG that is decoded reduced counts as the size decoded. colour: "srgb"
    converts by ICC profiles. background: a colour name or #rrggbb that shows through transparency. grey16: "scaled" by
    the bits that the image uses. The defaults are what the first release did.
    """

    initial: ClassVar[dict[str, JsonValue]] = {"colour": "srgb", "grey16": "scaled"}

    max_pixels: int = Field(default=64_000_000, ge=1, le=4_000_000_000)
    colour: Colour = "ignore"
    background: str = Field(default="white", max_length=32)
    grey16: Grey16 = "upper"

    @field_validator("background")
    @classmethod
    def _is_colour(cls, value: str) -> str:
        if len(ImageColor.getrgb(value)) != 3:
            raise ValueError(f"{value!r} is no opaque colour; write a name or #rrggbb")
        return value

    @property
    def resizing(self) -> Resize:
        """The policy by which images are resized."""
        return Resize.parse(str(getattr(self, "resize", "none")))

    @property
    def reduced(self) -> bool:
        """Whether large JPEGs are decoded at a fraction of their size."""
        return False

    @property
    def rendering(self) -> Rendering:
        """How pixels become RGB."""
        return Rendering(colour=self.colour, background=self.background, grey16=self.grey16)

    @property
    def limits(self) -> Limits:
        """What is decoded at all."""
        return Limits(max_pixels=self.max_pixels)

    def decode(self, data: bytes) -> Decoded:
        """Decode and resize an image by these settings; BadImageError says why it cannot be used."""
        return decode(data, self.resizing, self.limits, reduced=self.reduced, rendering=self.rendering)

    def weigh(self, data: bytes) -> int:
        """Return about how many bytes decoding and resizing an image takes."""
        return needed(data, self.resizing, self.limits, reduced=self.reduced)
