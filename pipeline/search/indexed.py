"""Indexed images as queries: by what is stored of them; nothing is read from the source or described anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.core.errors import UserError
from pipeline.core.types import DescriptorBatch
from pipeline.search.engine import Hit, SearchIndex, SearchOptions
from pipeline.search.find import find
from pipeline.search.query import Query


def stored_query(index: SearchIndex, file: int, row: int, *, local: bool = False) -> Query:
    """Return the query that an image is, by its descriptor file and row.

    local: with the local descriptors that are kept beside its vector; UserError when none are.
    """
    image = index.stored.image(file, row)
    kept = None
    if local or index.is_local:
        if not index.stored.has_local:
            raise UserError("--verify", "needs local descriptors, and this snapshot stores none", "leave it out")
        kept, _ = index.stored.local(file, row)
    if index.is_local:
        assert kept is not None, "they are what is stored"
        batch = kept
    else:
        vector = index.stored.vectors(np.array([file]), np.array([row]))
        batch = replace(DescriptorBatch.of_images(vector), local=kept)
    size = (image.width, image.height)
    recipe = index.snapshot.recipe.descriptor_id
    return Query(batch=batch, width=size[0], height=size[1], recipe=recipe, whole=size)


def place_of(index: SearchIndex, key: str) -> tuple[int, int]:
    """Return descriptor file and row of a live image; UserError when there is none of that key."""
    place = index.place(key)
    if place is None:
        raise UserError(key, f"is no image of snapshot {index.snapshot.version}", "see the keys of a query")
    return place


def others(
    index: SearchIndex, queries: Sequence[Query], keys: Sequence[str], options: SearchOptions
) -> list[list[Hit]]:
    """Return the k best hits of each query without the image of its key, which the query is, or is a part of.

    key "": a query of no indexed image, which loses nothing.
    """
    found = find(index, queries, replace(options, k=options.k + 1) if any(keys) else options)
    return [
        [hit for hit in hits if not key or hit.key != key][: options.k] for key, hits in zip(keys, found, strict=True)
    ]
