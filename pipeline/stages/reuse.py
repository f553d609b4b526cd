"""Reuse: the descriptors of a shard under a recipe that carries other metadata. No image is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

from pipeline.core.types import Image, Reject
from pipeline.stages.describe import Described
from pipeline.table import ImageRow


def with_metadata(stored: Described, items: Iterable[Image | Reject]) -> Described | None:
    """Return what is stored of a shard with the metadata that its images carry now; None unless these are its images.

    items: the shard as its source yields it. Images are the same when they come in the same order with the same keys
    and digests; what is neither among them nor among the rejects is new, or was read in another way.
    """
    rejected = {reject.key for reject in stored.rejects}
    images: list[ImageRow] = []
    for item in recorded(items):
        place = len(images)
        if isinstance(item, Image) and place < len(stored.images) and _is(item, stored.images[place]):
            images.append(replace(stored.images[place], uri=item.uri, metadata=item.metadata, span=item.span))
        elif item.key not in rejected:
            return None
    return replace(stored, images=images) if len(images) == len(stored.images) else None


def recorded(items: Iterable[Image | Reject]) -> Iterator[Image | Reject]:
    """Leave out what a source counts and what is never recorded of a shard."""
    for item in items:
        if isinstance(item, Image) or item.status in ("rejected", "duplicate"):
            yield item


def _is(item: Image, image: ImageRow) -> bool:
    return item.key == image.key and hashlib.sha256(item.data).hexdigest() == image.sha256
