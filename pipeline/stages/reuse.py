"""Reuse: what is stored of a shard by another recipe, which may carry other metadata. No image is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.core import staging
from pipeline.core.errors import IntegrityError, NotFoundError
from pipeline.core.types import DescriptorFile, Image, Reject, Shard
from pipeline.publish.catalog import Catalog
from pipeline.rejects import read_rejects
from pipeline.stages.describe import Described
from pipeline.table import DescriptorReader, ImageRow


def stored_of(catalog: Catalog, recipe_id: str, shard: Shard) -> Described | None:
    """Return what a shard has by another recipe, if it was extracted by it."""
    record = catalog.record(catalog.record_name(recipe_id, shard.id), DescriptorFile)
    if record is None:
        return None
    try:
        with staging.folder() as folder:
            reader = DescriptorReader(catalog.fetch(record.artifact, Path(folder)), record.artifact.uri)
            images, batch = reader.images(), reader.batch()
            rejects = []
            if record.rejects is not None:
                rejects = read_rejects(catalog.fetch(record.rejects, Path(folder)))
    except (NotFoundError, IntegrityError):
        return None  # collected, or broken: what is only of use to save work is not needed
    return Described(images=images, batch=batch, rejects=rejects)


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
