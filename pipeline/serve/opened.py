"""A snapshot that is open for service: its index, what turns images into queries of it, and its originals."""

from __future__ import annotations

import threading

import torch

from pipeline.core.errors import ReadError, StoreError, TransientError, UserError
from pipeline.publish.catalog import Catalog
from pipeline.search.engine import Hit, SearchIndex
from pipeline.search.locate import Locator
from pipeline.search.originals import Originals
from pipeline.search.query import QueryExtractor
from pipeline.search.thumbnails import limits_of
from pipeline.table import ImageRow


class UnknownImageError(UserError):
    """No live image of the snapshot has that key, or its original is gone."""


class Opened:
    """A snapshot with what turns images into queries of it."""

    def __init__(
        self, catalog: Catalog, index: SearchIndex, extractor: QueryExtractor | None, device: torch.device
    ) -> None:
        self.index, self.extractor, self._catalog = index, extractor, catalog
        recipe = index.snapshot.recipe
        self.originals = Originals(recipe.source, index.snapshot.source, index.row)
        self.limits = limits_of(recipe.extractor)
        self._device = device
        self._locator: Locator | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the index."""
        self.index.close()

    def locator(self) -> Locator:
        """Return what finds objects in results; UserError for descriptors that cannot tell."""
        with self._lock:
            if self._locator is None:
                store, recipe = self._catalog.store, self.index.snapshot.recipe
                self._locator = Locator(store, recipe, self._device, self.originals)
            return self._locator

    @property
    def can_locate(self) -> bool:
        """Whether objects can be found in results."""
        return self.extractor is not None and Locator.fits(self.index.snapshot.recipe)

    def place(self, key: str) -> tuple[int, int]:
        """Return descriptor file and row of an indexed image; UnknownImageError when there is none of that key."""
        place = self.index.place(key)
        if place is None:
            raise UnknownImageError(key[:200], f"is no image of snapshot {self.index.snapshot.version}")
        return place

    def original(self, image: ImageRow) -> bytes:
        """Return an indexed image's encoded bytes; UnknownImageError when they cannot be had."""
        try:
            return self.originals.read(image.key, image.uri, image.sha256, image.span)
        except UserError as error:
            raise UnknownImageError(error.subject, error.reason, error.remedy) from None
        except (ReadError, TransientError):
            raise
        except StoreError as error:
            raise UnknownImageError(image.uri, f"cannot be read: {error}") from None


def with_box(locator: Locator, objects: torch.Tensor, hit: Hit) -> Hit:
    """Return a hit with the object's box; without one when its original is gone."""
    try:
        return locator.locate(objects, [hit])[0]
    except (UserError, StoreError):
        return hit
