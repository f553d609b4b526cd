"""Locate objects in results: the query's features in the feature map of each result, read again from the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage

from pipeline.core.errors import BadImageError, UnavailableError, UserError
from pipeline.core.storage import Store
from pipeline.decode import Decoded, Resize, decode
from pipeline.extract.pooled import PooledExtractor
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.features.locate import locate, pooled
from pipeline.publish.recipe import Recipe
from pipeline.search.engine import Hit
from pipeline.search.originals import Originals

LONGEST = 1024
"""Longest side at which results are looked at, whatever the recipe's: a larger map has finer boxes."""
QUERY_SCALES = (0.7071, 0.5, 0.3536)
"""An object is mostly smaller in a result than in the query: it is described at several sizes, the best one counts. At
the query's own size the whole of a result wins too often (measured: mean IoU .57 in place of .64)."""
EXPONENT = 3.0
"""Of the generalised mean, where the recipe has none of its own. The high exponent that stands for a maximum (10,
Tolias et al.) finds worse boxes, also for descriptors that were pooled by maxima: .47 in place of .64."""
LEAST_SIDE = 64


class Locator:
    """The recipe's backbone, looking at single images. Only descriptors pooled from a feature map can be located."""

    def __init__(self, store: Store, recipe: Recipe, device: torch.device, originals: Originals) -> None:
        spec = recipe.extractor
        if not self.fits(recipe) or not isinstance(spec, PooledSpec):
            raise UserError("--locate", f"needs a feature map, {spec.kind} has none", "use --verify, or gem, rmac ...")
        extractor = spec.build(store, device)
        assert isinstance(extractor, PooledExtractor), "a pooled spec builds a pooled extractor"
        self._extractor, self._originals, self._spec = extractor, originals, spec
        self._p = spec.gem_p or EXPONENT if spec.pooling == "gem" else EXPONENT

    @staticmethod
    def fits(recipe: Recipe) -> bool:
        """Whether descriptors were pooled from a feature map."""
        return isinstance(recipe.extractor, PooledSpec) and recipe.extractor.pooling != "cls"

    def describe(self, data: bytes) -> torch.Tensor:
        """Return the object's features (Q, C) at several sizes; data: the encoded query, or the box cut out of it.

        UserError when the query cannot be decoded.
        """
        try:
            pixels = self._decoded(data, "query").pixels
        except BadImageError as error:
            raise UserError("query", str(error), "give another image") from None
        return torch.stack([pooled(self._map(pixels, scale * LONGEST), self._p) for scale in QUERY_SCALES])

    def _decoded(self, data: bytes, name: str) -> Decoded:
        """Decode an image as the recipe decodes what it indexes, at no smaller size than it is looked at."""
        spec = self._spec
        # Where large JPEGs are indexed at a fraction of their size, their whole may be out of bounds.
        resize = Resize(policy="longest", size=LONGEST) if spec.reduced else Resize()
        try:
            return decode(data, resize, spec.limits, reduced=spec.reduced, rendering=spec.rendering)
        except MemoryError:
            raise UnavailableError(f"{name}: there is not enough memory to decode it now") from None

    def _map(self, pixels: npt.NDArray[np.uint8], longest: float) -> torch.Tensor:
        """Return the feature map of an image at a longest side, enlarged where it is smaller."""
        height, width = pixels.shape[:2]
        factor = longest / max(height, width)
        size = (max(LEAST_SIDE, round(factor * width)), max(LEAST_SIDE, round(factor * height)))
        resized = np.array(PillowImage.fromarray(pixels).resize(size, PillowImage.Resampling.BILINEAR))
        return self._extractor.feature_map(Decoded(pixels=resized, width=width, height=height))

    def locate(self, objects: torch.Tensor, hits: Sequence[Hit]) -> list[Hit]:
        """Return the hits with the box of the object in each, in pixels of the original image."""
        return [replace(hit, box=self._box(objects, hit)) for hit in hits]

    def _box(self, objects: torch.Tensor, hit: Hit) -> tuple[float, float, float, float] | None:
        try:
            image = self._decoded(self._originals.read(hit.key, hit.uri), hit.uri)
        except BadImageError as error:
            raise UserError(hit.uri, f"cannot be decoded to locate in it: {error}", "leave --locate out") from None
        found = locate(self._map(image.pixels, LONGEST), objects, self._p)
        width, height = image.width, image.height
        shares = np.array([found.left, found.top, found.width, found.height])
        size = np.array([width, height, width, height])
        x, y, across, down = (shares * size).tolist()
        return x, y, across, down
