"""Locate objects in results: the query's features in the feature map of each result, read again from the source."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image as PillowImage

from pipeline.core.errors import BadImageError, UserError
from pipeline.core.storage import Store
from pipeline.decode import Resize, decode
from pipeline.extract.pooled import PooledExtractor
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.features.locate import locate, pooled
from pipeline.publish.recipe import Recipe
from pipeline.search.engine import Hit
from pipeline.search.originals import Originals

QUERY_SCALES = (1.0, 0.7071, 0.5, 0.3536)
"""An object is mostly smaller in a result than in the query: it is described at several sizes, the best one counts."""
EXPONENTS = {"spoc": 1.0, "mac": 10.0, "rmac": 10.0}
"""Exponent of the mean that stands for a pooling; 10 stands for the maximum (Tolias et al.)."""


class Locator:
    """The recipe's backbone, looking at single images. Only descriptors pooled from a feature map can be located."""

    def __init__(self, store: Store, recipe: Recipe, device: torch.device, originals: Originals) -> None:
        spec = recipe.extractor
        if not isinstance(spec, PooledSpec) or spec.pooling == "cls":
            raise UserError("--locate", f"needs a feature map, {spec.kind} has none", "use --verify, or gem, rmac ...")
        extractor = spec.build(store, device)
        assert isinstance(extractor, PooledExtractor), "a pooled spec builds a pooled extractor"
        self._extractor, self._originals = extractor, originals
        self._p = EXPONENTS.get(spec.pooling, spec.gem_p or 3.0)

    def describe(self, data: bytes) -> torch.Tensor:
        """Return the object's features (Q, C) at several sizes; data: the encoded query, or the box cut out of it."""
        pixels = decode(data, Resize.parse("none")).pixels
        found = []
        for scale in QUERY_SCALES:
            height, width = (max(1, round(scale * side)) for side in pixels.shape[:2])
            resized = PillowImage.fromarray(pixels).resize((width, height), PillowImage.Resampling.BILINEAR)
            out = io.BytesIO()
            resized.save(out, "PNG", compress_level=1)
            try:
                found.append(pooled(self._extractor.feature_map(self._extractor.prepare(out.getvalue())), self._p))
            except BadImageError:
                break
        if not found:
            raise UserError("query", "is too small to be located", "give a larger image or box")
        return torch.stack(found)

    def locate(self, objects: torch.Tensor, hits: Sequence[Hit]) -> list[Hit]:
        """Return the hits with the box of the object in each, in pixels of the original image."""
        return [replace(hit, box=self._box(objects, hit)) for hit in hits]

    def _box(self, objects: torch.Tensor, hit: Hit) -> tuple[float, float, float, float] | None:
        try:
            image = self._extractor.prepare(self._originals.read(hit.key, hit.uri))
        except BadImageError as error:
            raise UserError(hit.uri, f"has changed since it was indexed: {error}", "index the source anew") from None
        found = locate(self._extractor.feature_map(image), objects, self._p)
        shares = np.array([found.left, found.top, found.width, found.height])
        size = np.array([image.width, image.height, image.width, image.height])
        left, top, width, height = (shares * size).tolist()
        return left, top, width, height
