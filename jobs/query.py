"""`sightline query`: images in, the most similar indexed images out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs._main import run_module
from jobs.opened import open_search
from jobs.runners import ANSWER_SECONDS, RunnerOptions
from pipeline.core.errors import NotFoundError, UserError
from pipeline.core.names import public_url
from pipeline.core.storage import open_store, split_location
from pipeline.search.engine import Hit, SearchIndex, SearchOptions
from pipeline.search.find import find
from pipeline.search.locate import Locator
from pipeline.search.originals import Originals
from pipeline.search.query import Box, BoxScale, QueryExtractor
from pipeline.stages.describe import choose_device


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """A query run. box (x, y, width, height), in pixels of the image, applies to every query image.

    box_scale: "own" resizes a box like an image of its own (DIR), "database" as within the whole image (cirtorch).
    locate: say where in each result the query is, by its features; the results are read again from the source.
    runner, seconds: where the index shards are, see jobs/opened.py.
    """

    root: str
    images: Sequence[str]
    search: SearchOptions = field(default_factory=SearchOptions)
    box: Box | None = None
    box_scale: BoxScale = "own"
    locate: bool = False
    device: str = "auto"
    version: int | None = None
    runner: RunnerOptions = field(default_factory=RunnerOptions)
    seconds: float = ANSWER_SECONDS


def query(options: QueryOptions) -> dict[str, Any]:
    """Return {"snapshot", "index", "descriptor", "results": [{"query", "hits": [{"key", "score", "uri"}]}]}."""
    opened = open_search(
        options.root, options.version, options.runner, kinds=(options.search.index,), seconds=options.seconds
    )
    with opened as index:
        extractor = QueryExtractor(open_store(options.root), index.snapshot.recipe, choose_device(options.device))
        queries = [
            extractor.describe(read_image(name), public_url(name), options.box, options.box_scale)
            for name in options.images
        ]
        kind = index.spec(options.search.index).kind
        found = find(index, queries, options.search)
        if options.locate:
            found = _located(options, index, extractor, found)
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


def _located(
    options: QueryOptions, index: SearchIndex, extractor: QueryExtractor, found: list[list[Hit]]
) -> list[list[Hit]]:
    """Return the hits with their boxes; those that geometry has located stay as they are."""
    snapshot = index.snapshot
    originals = Originals(snapshot.recipe.source, snapshot.source)
    locator = Locator(open_store(options.root), snapshot.recipe, choose_device(options.device), originals)
    located = []
    for name, hits in zip(options.images, found, strict=True):
        data = read_image(name)
        objects = locator.describe(data if options.box is None else extractor.cut(data, options.box))
        located.append(locator.locate(objects, hits))
    return located


def read_image(location: str) -> bytes:
    """Read one image from an allowed location; a UserError when it is not there."""
    store, name = split_location(location)
    try:
        return store.read(name)
    except NotFoundError:
        raise UserError(public_url(location), "does not exist", "check the path") from None


if __name__ == "__main__":
    run_module("query")
