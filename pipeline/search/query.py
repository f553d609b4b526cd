"""From query images to vectors, by the recipe of the snapshot: server and indexer cannot disagree."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image as PillowImage

from pipeline.core.artifacts import read_artifact
from pipeline.core.errors import BadImageError, UserError
from pipeline.core.storage import Store
from pipeline.core.types import Floats
from pipeline.decode import Resize, decode
from pipeline.extract import ExtractSpec
from pipeline.publish.recipe import Recipe
from pipeline.whiten import Whitening

Box = tuple[float, float, float, float]


class QueryExtractor:
    """The snapshot's extractor and whitening, applied to single images."""

    def __init__(self, store: Store, recipe: Recipe, device: torch.device) -> None:
        assert isinstance(recipe.extractor, ExtractSpec), "a recipe holds an extractor"
        self._extractor = recipe.extractor.build(store, device)
        self._whitening: Whitening | None = None
        if recipe.whiten is not None and recipe.whiten.artifact is not None:
            self._whitening = Whitening.from_bytes(read_artifact(store, recipe.whiten.artifact))

    def vector(self, data: bytes, name: str, box: Box | None = None) -> Floats:
        """Return the descriptor (d,) of an encoded image, or of a box (x, y, width, height) in its own pixels.

        The box is cut out before resizing, as DIR does it. UserError when the image cannot be used.
        """
        try:
            decoded = self._extractor.prepare(data if box is None else crop(data, box))
        except BadImageError as error:
            raise UserError(name, str(error), "give another image") from None
        vectors = self._extractor.extract([decoded]).vectors
        if self._whitening is not None:
            vectors = self._whitening.apply(vectors)
        return np.asarray(vectors[0], dtype=np.float32)


def crop(data: bytes, box: Box) -> bytes:
    """Return the box (x, y, width, height) of an image as PNG; pixels are those after the EXIF turn."""
    pixels = decode(data, Resize.parse("none")).pixels
    height, width = pixels.shape[:2]
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(width, round(box[0] + box[2])), min(height, round(box[1] + box[3]))
    if right <= left or bottom <= top:
        raise BadImageError(f"the box {','.join(f'{v:g}' for v in box)} lies outside the image of {width}x{height}")
    out = io.BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right])).save(out, "PNG", compress_level=1)
    return out.getvalue()
