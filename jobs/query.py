"""`sightline query`: images in, the most similar indexed images out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jobs._main import run_module
from jobs.opened import open_search
from jobs.runners import ANSWER_SECONDS, RunnerOptions
from pipeline.core.errors import NotFoundError, UserError
from pipeline.core.names import public_url
from pipeline.core.storage import open_store, split_location
from pipeline.search.engine import Hit, SearchIndex, SearchOptions
from pipeline.search.indexed import others, place_of, stored_query
from pipeline.search.locate import Locator
from pipeline.search.originals import Originals
from pipeline.search.query import Box, BoxScale, Query, QueryExtractor
from pipeline.stages.device import choose_device


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """A query run, with images and with indexed ones, by their keys. box (x, y, width, height), in pixels of the
    image, applies to every one of them.

    box_scale: "own" resizes a box like an image of its own (DIR), "database" as within the whole image (cirtorch).
    locate: say where in each result the query is, by its features; the results are read again from the source.
    runner, seconds: where the index shards are, see jobs/opened.py.
    """

    root: str
    images: Sequence[str] = ()
    keys: Sequence[str] = ()
    search: SearchOptions = field(default_factory=SearchOptions)
    box: Box | None = None
    box_scale: BoxScale = "own"
    locate: bool = False
    device: str = "auto"
    version: int | None = None
    runner: RunnerOptions = field(default_factory=RunnerOptions)
    seconds: float = ANSWER_SECONDS


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One query: its name, its bytes, which are read when they are needed, and its key if it is an indexed image."""

    name: str
    data: Callable[[], bytes]
    key: str = ""


def query(options: QueryOptions) -> dict[str, Any]:
    """Return {"snapshot", "index", "descriptor", "results": [{"query", "hits": [{"key", "score", "uri"}]}]}."""
    opened = open_search(
        options.root, options.version, options.runner, kinds=(options.search.index,), seconds=options.seconds
    )
    with opened as index:
        asked = list(_asked(options, index))
        kind = index.spec(options.search.index).kind
        extractor = _extractor(options, index)
        queries = [_described(options, index, extractor, one) for one in asked]
        found = others(index, queries, [one.key for one in asked], options.search)
        if options.locate:
            found = _located(options, index, extractor, list(zip(asked, found, strict=True)))
    return {
        "snapshot": index.snapshot.version,
        "index": kind,
        "descriptor": index.snapshot.summary.origin,
        "results": [
            {"query": one.name, "hits": [hit.to_json() for hit in hits]} for one, hits in zip(asked, found, strict=True)
        ],
    }


def _asked(options: QueryOptions, index: SearchIndex) -> Iterator[_Asked]:
    if not options.images and not options.keys:
        raise UserError("query", "has nothing to search with", "name images, or --key KEY for an indexed one")
    for name in options.images:
        yield _Asked(name=public_url(name), data=partial(read_image, name))
    originals = Originals(index.snapshot.recipe.source, index.snapshot.source) if options.keys else None
    for key in options.keys:
        assert originals is not None, "opened for keys"
        image = index.stored.image(*place_of(index, key))
        read = partial(originals.read, image.key, image.uri, image.sha256, image.span)
        yield _Asked(name=key, key=key, data=read)


def _extractor(options: QueryOptions, index: SearchIndex) -> QueryExtractor | None:
    """Return what describes images; None when only stored descriptors are asked with."""
    if not options.images and options.box is None:
        return None
    return QueryExtractor(open_store(options.root), index.snapshot.recipe, choose_device(options.device))


def _described(options: QueryOptions, index: SearchIndex, extractor: QueryExtractor | None, asked: _Asked) -> Query:
    if extractor is None or (asked.key and options.box is None):
        return stored_query(index, *place_of(index, asked.key), local=options.search.verify > 0)
    return extractor.describe(asked.data(), asked.name, options.box, options.box_scale)


def _located(
    options: QueryOptions,
    index: SearchIndex,
    extractor: QueryExtractor | None,
    found: Sequence[tuple[_Asked, list[Hit]]],
) -> list[list[Hit]]:
    """Return the hits with their boxes; those that geometry has located stay as they are."""
    snapshot = index.snapshot
    originals = Originals(snapshot.recipe.source, snapshot.source, index.row)
    locator = Locator(open_store(options.root), snapshot.recipe, choose_device(options.device), originals)
    located = []
    for asked, hits in found:
        data = asked.data()
        if options.box is not None and extractor is not None:
            data = extractor.cut(data, options.box)
        located.append(locator.locate(locator.describe(data), hits))
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
