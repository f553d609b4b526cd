"""`sightline query`: images in, the most similar indexed images out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs._main import run_module
from pipeline.core.errors import NotFoundError, UserError
from pipeline.core.names import public_url
from pipeline.core.storage import open_store, split_location
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.search.find import find
from pipeline.search.query import Box, BoxScale, QueryExtractor
from pipeline.stages.describe import choose_device


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """A query run. box (x, y, width, height), in pixels of the image, applies to every query image.

    box_scale: "own" resizes a box like an image of its own (DIR), "database" as within the whole image (cirtorch).
    """

    root: str
    images: Sequence[str]
    search: SearchOptions = field(default_factory=SearchOptions)
    box: Box | None = None
    box_scale: BoxScale = "own"
    device: str = "auto"
    version: int | None = None


def query(options: QueryOptions) -> dict[str, Any]:
    """Return {"snapshot", "index", "descriptor", "results": [{"query", "hits": [{"key", "score", "uri"}]}]}."""
    with SearchIndex.open(options.root, options.version) as index:
        extractor = QueryExtractor(open_store(options.root), index.snapshot.recipe, choose_device(options.device))
        queries = [
            extractor.describe(read_image(name), public_url(name), options.box, options.box_scale)
            for name in options.images
        ]
        kind = index.spec(options.search.index).kind
        found = find(index, queries, options.search)
    results = [
        {"query": public_url(name), "hits": [hit.to_json() for hit in hits]}
        for name, hits in zip(options.images, found, strict=True)
    ]
    return {
        "snapshot": index.snapshot.version,
        "index": kind,
        "descriptor": index.snapshot.summary.origin,
        "results": results,
    }


def read_image(location: str) -> bytes:
    """Read one image from an allowed location; a UserError when it is not there."""
    store, name = split_location(location)
    try:
        return store.read(name)
    except NotFoundError:
        raise UserError(public_url(location), "does not exist", "check the path") from None


if __name__ == "__main__":
    run_module("query")
