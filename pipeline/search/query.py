"""From query images to vectors, by the recipe of the snapshot: server and indexer cannot disagree."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage

from pipeline.core.artifacts import read_artifact
from pipeline.core.errors import BadImageError, UnavailableError, UserError
from pipeline.core.storage import Store
from pipeline.core.types import DescriptorBatch, Floats
from pipeline.decode import Resize, decode
from pipeline.extract import Encoded, Extractor, ExtractSpec, ImageSpec
from pipeline.features.encoding import Encoder
from pipeline.features.usable import whitened
from pipeline.publish.recipe import Recipe
from pipeline.whiten import Whitening

Box = tuple[float, float, float, float]
BoxScale = Literal["own", "database"]
"""How a box is resized: like an image of its own, as DIR does it; or by the factor of the whole image, as cirtorch."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """The descriptors of one image, or of a box of it, of width x height pixels. recipe: its descriptor_id.

    whole: width and height of the image that the box is of.
    """

    batch: DescriptorBatch
    width: int
    height: int
    recipe: str
    whole: tuple[int, int]

    @property
    def local(self) -> DescriptorBatch | None:
        """The local descriptors, where there are any: those that are searched with, or what their encoding kept."""
        return self.batch if self.batch.is_local else self.batch.local


class QueryExtractor:
    """The snapshot's extractor and whitening, applied to single images."""

    def __init__(self, store: Store, recipe: Recipe, device: torch.device) -> None:
        assert isinstance(recipe.extractor, ExtractSpec), "a recipe holds an extractor"
        self._extractor: Extractor = recipe.extractor.build(store, device)
        if recipe.encode is not None and recipe.encode.artifact is not None:
            encoder = Encoder.from_bytes(recipe.encode, read_artifact(store, recipe.encode.artifact))
            self._extractor = Encoded(self._extractor, encoder)
        self._zero_means = recipe.extractor.zero_means
        self._dtype, self._recipe = recipe.dtype, recipe.descriptor_id
        self._spec = recipe.extractor if isinstance(recipe.extractor, ImageSpec) else None
        self._resize = Resize.parse(str(getattr(recipe.extractor, "resize", "none")))
        self._whitening: Whitening | None = None
        if recipe.whiten is not None and recipe.whiten.artifact is not None:
            self._whitening = Whitening.from_bytes(read_artifact(store, recipe.whiten.artifact))

    def describe(self, data: bytes, name: str, box: Box | None = None, box_scale: BoxScale = "own") -> Query:
        """Describe an encoded image, or a box (x, y, width, height) of it, in its own pixels after the EXIF turn.

        The box is cut out before resizing. UserError when the image cannot be used.
        """
        whole = None
        try:
            if box is not None:
                data, whole = self._cut(data, box, box_scale)
            decoded = self._extractor.prepare(data)
        except BadImageError as error:
            raise UserError(name, str(error), "give another image") from None
        except MemoryError:
            raise UnavailableError(f"{name}: there is not enough memory to decode it now") from None
        batch = self._extractor.extract([decoded])
        if not len(batch.vectors):
            raise UserError(name, "has no local features", "give another image")
        batch = self._as_stored(self._whitened(batch, name))
        size = (decoded.width, decoded.height)
        return Query(batch=batch, width=size[0], height=size[1], recipe=self._recipe, whole=whole or size)

    def _whitened(self, batch: DescriptorBatch, name: str) -> DescriptorBatch:
        """Whiten; UserError where nothing is left that can be searched with, by the rule of the indexer."""
        whiten = None if self._whitening is None else self._whitening.apply
        made = whitened(batch, whiten, self._dtype)
        if not len(made.batch.vectors):
            raise UserError(name, made.reason(self._zero_means), "give another image")
        return made.batch

    def _as_stored(self, batch: DescriptorBatch) -> DescriptorBatch:
        """Round to codes what is stored as codes, so that an image is nearest to itself."""
        if self._dtype != "binary":
            return batch
        size = np.float32(np.sqrt(batch.vectors.shape[1]))
        signs = np.where(batch.vectors >= 0, 1 / size, -1 / size).astype(np.float32)
        return replace(batch, vectors=signs)

    def vector(self, data: bytes, name: str, box: Box | None = None, box_scale: BoxScale = "own") -> Floats:
        """Return the global descriptor (d,) of an image or a box of it; see `describe`."""
        batch = self.describe(data, name, box, box_scale).batch
        if batch.is_local:
            raise UserError(name, "has local descriptors, not one vector", "search by pipeline.search.find")
        return np.asarray(batch.vectors[0], dtype=np.float32)

    def cut(self, data: bytes, box: Box, box_scale: BoxScale = "own") -> bytes:
        """Return a box of an image as an image."""
        return self._cut(data, box, box_scale)[0]

    def _cut(self, data: bytes, box: Box, box_scale: BoxScale) -> tuple[bytes, tuple[int, int]]:
        cut, whole = crop(data, box, self._spec)
        if box_scale == "database" and self._resize.policy in ("shortest", "exact"):
            raise UserError("--box-scale database", f"has no meaning for --resize {self._resize}", "use own")
        if box_scale == "database" and self._resize.policy == "longest":
            # cirtorch: the crop is shrunk as far as it was within the whole image, so objects keep their scale.
            side = max(1, int(self._resize.size * max(cut.size) / max(whole)))
            cut.thumbnail((side, side), PillowImage.Resampling.LANCZOS)
        out = io.BytesIO()
        cut.save(out, "PNG", compress_level=1)
        return out.getvalue(), whole


def whole_image(data: bytes, spec: ImageSpec | None) -> npt.NDArray[np.uint8]:
    """Return the pixels (H, W, 3) of an image at its own size, decoded as an extractor decodes what it indexes."""
    if spec is None:
        return decode(data, Resize.parse("none")).pixels
    return decode(data, Resize.parse("none"), spec.limits, rendering=spec.rendering).pixels


def crop(data: bytes, box: Box, spec: ImageSpec | None = None) -> tuple[PillowImage.Image, tuple[int, int]]:
    """Return the box (x, y, width, height) of an image, and the size of the whole; after the EXIF turn.

    spec: whose colours and limits are those of the images that are indexed.
    """
    pixels = whole_image(data, spec)
    height, width = pixels.shape[:2]
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(width, round(box[0] + box[2])), min(height, round(box[1] + box[3]))
    if right <= left or bottom <= top:
        raise BadImageError(f"the box {','.join(f'{v:g}' for v in box)} lies outside the image of {width}x{height}")
    return PillowImage.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right])), (width, height)
