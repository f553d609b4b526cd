"""MOP's encoding: the whole image's vector, and per patch size a VLAD that PCA makes short; one after another.

Formulas after the paper (see extract/mop.py); its stride and soft assignment could not be checked: assignment is hard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import UserError
from pipeline.core.types import DescriptorBatch, Floats
from pipeline.features.codebook import kmeans, principal_axes
from pipeline.features.encode import direction, unit, vlad


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What of an encoding's settings is used here; see features/encoding.py."""

    words: int
    pca: int | None
    power: float
    intra: bool
    level_dims: int
    seed: int


def levels_of(batch: DescriptorBatch) -> list[Floats]:
    """Return the vectors of an image by the size of their patches, the whole image first."""
    assert batch.scales is not None, "patches have a size"
    sizes = np.unique(batch.scales)[::-1]
    return [batch.vectors[batch.scales == size].astype(np.float16).astype(np.float32) for size in sizes]


def vector(spec: Settings, tensors: dict[str, Floats], batch: DescriptorBatch) -> Floats:
    """Return the MOP vector of an image: each level of unit length, one after another, L2."""
    whole, *levels = levels_of(batch)
    parts = [unit(whole[0])]
    parts += [_level(spec, tensors, number, x) for number, x in enumerate(levels, start=1)]
    return unit(np.concatenate(parts))


def _level(spec: Settings, tensors: dict[str, Floats], number: int, x: Floats) -> Floats:
    long = _vlad(spec, tensors, number, x)
    return np.asarray(
        _reduced(long[None], tensors[f"{number}.vlad_mean"], tensors[f"{number}.vlad_axes"])[0], np.float32
    )


def _vlad(spec: Settings, tensors: dict[str, Floats], number: int, x: Floats) -> Floats:
    reduced = _reduced(x, tensors[f"{number}.mean"], tensors[f"{number}.axes"])
    return vlad(reduced, tensors[f"{number}.centroids"], power=spec.power, intra=spec.intra)


def _reduced(x: Floats, mean: Floats, axes: Floats) -> Floats:
    return direction(np.matmul(x - mean, axes), np.linalg.norm(x, axis=1) + np.linalg.norm(mean))


def dim(tensors: dict[str, Floats], local: int) -> int:
    """Return the length of the vectors: that of the whole image, and of the levels that were fitted."""
    count = int(tensors["levels"][0])
    return local + sum(int(tensors[f"{number}.vlad_axes"].shape[1]) for number in range(1, count + 1))


def fit(spec: Settings, images: Sequence[DescriptorBatch]) -> dict[str, Floats]:
    """Fit PCA, codebook and the PCA of VLADs for every level below the whole image; UserError for too few images."""
    by_image = [levels_of(image) for image in images]
    if len(by_image) < 2:
        raise UserError("encoding mop", f"cannot be fitted from {len(by_image)} image(s)", "index more images")
    count = len(by_image[0]) - 1
    tensors: dict[str, Floats] = {"levels": np.array([count], np.float32)}
    for number in range(1, count + 1):
        x = np.concatenate([levels[number] for levels in by_image])
        if len(x) < spec.words:
            raise UserError(f"codebook of {spec.words} words", f"has {len(x)} patches to learn from", "use fewer words")
        tensors[f"{number}.mean"], tensors[f"{number}.axes"] = principal_axes(x, spec.pca or x.shape[1])
        reduced = _reduced(x, tensors[f"{number}.mean"], tensors[f"{number}.axes"])
        tensors[f"{number}.centroids"] = kmeans(reduced, spec.words, spec.seed)
        long = np.stack([_vlad(spec, tensors, number, levels[number]) for levels in by_image])
        tensors[f"{number}.vlad_mean"], tensors[f"{number}.vlad_axes"] = principal_axes(long, spec.level_dims)
    return tensors
