"""Colour histograms (Swain, Ballard, 1991): joint over the channels of a colour space, whole or per cell of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from PIL import Image as PillowImage
from pydantic import Field, JsonValue, model_validator

from pipeline.core.storage import Store
from pipeline.core.types import DescriptorBatch, Floats
from pipeline.decode import Decoded, Resize
from pipeline.extract import ImageSpec, at_least
from pipeline.features.encode import unit

MOST_DIM = 1 << 16
LEAST_SIDE = 4


class Spec(ImageSpec):
    """space: rgb, hsv or lab. bins: per channel. grid: rows and columns of cells, their histograms one after another.

    power: on the shares before L2; 0.5 compares histograms by Hellinger's distance. binning: "hard" counts a pixel in
    one bin, "linear" in the two nearest of each channel, by their distance from its value, so that a colour at the edge
    of a bin does not move to another one with the last bit of a profile's or a codec's rounding.
    """

    initial: ClassVar[dict[str, JsonValue]] = {**ImageSpec.initial, "binning": "linear"}

    space: Literal["rgb", "hsv", "lab"] = "hsv"
    bins: tuple[int, int, int] = (8, 4, 4)
    grid: int = Field(default=1, ge=1, le=16)
    power: float = Field(default=0.5, gt=0, le=1)
    resize: str = "longest:256"
    binning: Literal["hard", "linear"] = "hard"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(1 <= count <= 256 for count in self.bins):
            raise ValueError("bins must be three numbers in 1..256")
        if self.dim > MOST_DIM:
            raise ValueError(f"{self.dim} bins in all are more than {MOST_DIM}")
        Resize.parse(self.resize)
        return self

    @property
    def dim(self) -> int:
        """Bins in all."""
        return int(np.prod(self.bins)) * self.grid**2

    @property
    def nonnegative(self) -> bool:
        """Always: values are shares of pixels or of gradients."""
        return True

    @property
    def label(self) -> str:
        """Space, bins, grid."""
        cells = f", {self.grid}x{self.grid} cells" if self.grid > 1 else ""
        return f"{self.space} histogram of {'x'.join(map(str, self.bins))} bins{cells}"

    def build(self, store: Store, device: torch.device) -> HistogramExtractor:  # noqa: ARG002 - nothing to load
        """Return the extractor; there is nothing to load."""
        return HistogramExtractor(self)


class HistogramExtractor:
    """See `pipeline.extract.Extractor`."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.dim = spec, spec.dim

    def prepare(self, data: bytes) -> Decoded:
        """Decode, resize."""
        return at_least(LEAST_SIDE, self.spec.decode(data))

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return histograms (n, d), L2-normalised."""
        return DescriptorBatch.of_images(np.stack([self._histogram(image.pixels) for image in images]))

    def _histogram(self, pixels: np.ndarray) -> Floats:
        spec = self.spec
        if spec.space != "rgb":
            pixels = np.asarray(_in_space(PillowImage.fromarray(pixels), spec.space))
        bands = np.array_split(pixels, spec.grid, axis=0)
        cells = [cell.reshape(-1, 3) for band in bands for cell in np.array_split(band, spec.grid, axis=1)]
        count = self._linear if spec.binning == "linear" else self._hard
        counts = [count(cell) / max(1, len(cell)) for cell in cells]
        return unit((np.concatenate(counts) ** spec.power).astype(np.float32))

    def _hard(self, pixels: np.ndarray) -> np.ndarray:
        """Return how many of some pixels (n, 3) fall into each bin; bins of equal widths over 0..255."""
        bins = np.array(self.spec.bins)
        binned = pixels.astype(np.int64) * bins // 256
        joint = (binned[..., 0] * bins[1] + binned[..., 1]) * bins[2] + binned[..., 2]
        return np.bincount(joint, minlength=int(bins.prod()))

    def _linear(self, pixels: np.ndarray) -> np.ndarray:
        """Return the same with each pixel shared among the nearest bins of each channel, eight in all."""
        bins = self.spec.bins
        # A value has one of 256 levels: its two bins and its shares in them are looked up.
        place = (np.arange(256)[:, None] + 0.5) * np.array(bins) / 256 - 0.5
        lower = np.floor(place).astype(np.int64)
        shares = place - lower
        strides = (bins[1] * bins[2], bins[2], 1)
        sides = []
        for channel in range(3):
            values = pixels[:, channel]
            for side in (0, 1):
                near = lower[:, channel] + side
                # The last hue is next to the first.
                near = (
                    near % bins[0] if self.spec.space == "hsv" and channel == 0 else np.clip(near, 0, bins[channel] - 1)
                )
                share = shares[:, channel] if side else 1 - shares[:, channel]
                sides.append(((near * strides[channel])[values], share[values]))
        total = np.zeros(int(np.prod(bins)))
        for first, second, third in np.ndindex(2, 2, 2):
            (i, x), (j, y), (k, z) = sides[first], sides[2 + second], sides[4 + third]
            total += np.bincount(i + j + k, x * y * z, minlength=len(total))
        return total


def _in_space(image: PillowImage.Image, space: str) -> PillowImage.Image:
    if space == "hsv":
        return image.convert("HSV")
    from PIL import ImageCms

    # Little CMS's Lab of sRGB: L in 0..255, a and b moved to unsigned bytes.
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    assert converted is not None, "a copy was asked for"
    signed = np.asarray(converted).copy()
    signed[..., 1:] ^= 0x80
    return PillowImage.fromarray(signed, "RGB")
