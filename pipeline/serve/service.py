"""What the service does, without HTTP: search by image, by key, by vectors; pictures of results. Every call is answered
from one snapshot, and blocks: the app calls it from threads.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.core.errors import BadImageError, UserError
from pipeline.core.stats import Stats
from pipeline.core.types import Floats
from pipeline.decode import pixels_of
from pipeline.index import IndexSpec
from pipeline.publish.catalog import Catalog
from pipeline.publish.snapshot import Snapshot
from pipeline.search.engine import Hit, SearchIndex, SearchOptions
from pipeline.search.find import find
from pipeline.search.indexed import others, stored_query
from pipeline.search.live import Live
from pipeline.search.query import Box, Query, QueryExtractor
from pipeline.search.thumbnails import thumbnail
from pipeline.serve.models import MOST_VECTORS, About, Ask, IndexModel, VectorsAsk
from pipeline.serve.opened import Opened, UnknownImageError, with_box
from pipeline.serve.options import ServeLimits, ServeOptions
from pipeline.serve.pictures import Pictures
from pipeline.stages.device import choose_device

PICTURES = 128 << 20
"""Bytes of thumbnails that are kept."""
NUMBER = 26
"""Characters of a number in JSON, and what stands around it."""
SIZES = (128, 256, 512, 1024, 2048)
"""Longest sides of thumbnails; what is asked for is rounded up, so that few are made."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Hits of each query, the snapshot and the index kind they come from, what was asked with, and seconds by phase."""

    snapshot: int
    index: str
    hits: list[list[Hit]]
    seconds: dict[str, float]
    size: tuple[int, int] = (0, 0)


Opener = Callable[[Catalog, Snapshot], SearchIndex]


class Service:
    """A ROOT that is being served; a context manager. opener: how a snapshot's index is opened, here or on Ray."""

    def __init__(self, options: ServeOptions, opener: Opener = SearchIndex) -> None:
        self.options, self._opener = options, opener
        self._device = choose_device(options.device)
        self._extractors: OrderedDict[str, QueryExtractor | None] = OrderedDict()
        self._live = Live(options.root, self._open, options.live)
        self._pictures = Pictures(PICTURES)
        self._cores = os.cpu_count() or 1
        self._passes = 0
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> Service:
        self._stack.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def live(self) -> Live[Opened]:
        """The snapshots, followed."""
        return self._live

    def _open(self, catalog: Catalog, snapshot: Snapshot) -> Opened:
        """Open everything that a first request would have to wait for."""
        recipe = snapshot.recipe
        if recipe.descriptor_id not in self._extractors:
            images = recipe.extractor.kind != "precomputed"
            made = QueryExtractor(catalog.store, recipe, self._device) if images else None
            self._extractors[recipe.descriptor_id] = made
            while len(self._extractors) > 2:
                self._extractors.popitem(last=False)
        index = self._opener(catalog, snapshot)
        try:
            index.warm([index.spec(kind).kind for kind in self.options.kinds or index.kinds])
        except BaseException:
            index.close()
            raise
        return Opened(catalog, index, self._extractors[recipe.descriptor_id], self._device)

    def by_image(self, data: bytes, box: Box | None, ask: Ask, gone: threading.Event | None = None) -> Found:
        """Search with an encoded image, or a box (x, y, width, height) of it. gone: set when nobody waits any more."""
        stats = Stats()
        with self._live.use() as opened:
            options = self._options(opened, ask)
            query = self._described(opened, self._bounded(data), "image", box, stats)
            hits = self._found(opened, query, options, stats)
            if ask.locate:
                hits = self._located(opened, data, box, hits, stats, gone)
            return _found(opened, options, [hits], stats, query.whole)

    def by_key(self, key: str, box: Box | None, ask: Ask, gone: threading.Event | None = None) -> Found:
        """Search with an indexed image, which is left out of the results, or with a box of it."""
        stats = Stats()
        with self._live.use() as opened:
            options = self._options(opened, ask)
            place = opened.place(key)
            image = opened.index.stored.image(*place)
            data = opened.original(image) if box is not None or ask.locate else b""
            if box is None:
                query = stored_query(opened.index, *place, local=options.verify > 0)
            else:
                query = self._described(opened, data, key, box, stats)
            with stats.timed("search"):
                (hits,) = others(opened.index, [query], [key], options)
            if ask.locate:
                hits = self._located(opened, data, box, hits, stats, gone)
            return _found(opened, options, [hits], stats, (image.width, image.height))

    def by_vectors(self, body: VectorsAsk) -> Found:
        """Search with vectors, all of one length."""
        stats = Stats()
        with self._live.use() as opened:
            options = self._options(opened, body.ask)
            if body.ask.locate or body.ask.verify:
                raise UserError("locate and verify", "need an image", "search with one")
            each = 0 if opened.index.spec(options.index).exact else (options.rerank or max(100, 10 * options.k))
            most = self.options.limits.rerank
            if options.rerank != 0 and len(body.vectors) * each > most:
                raise UserError(f"{len(body.vectors)} vectors", f"are more than {most} to score exactly", "send fewer")
            with stats.timed("search"):
                hits = opened.index.search(_unit(body.vectors), options, recipe=body.recipe)
            return _found(opened, options, hits, stats)

    def picture(self, key: str, longest: int) -> tuple[bytes, str]:
        """Return a JPEG of an indexed image with sides of at most about `longest` pixels, and its ETag."""
        size = next((size for size in SIZES if size >= longest), SIZES[-1])
        with self._live.use() as opened:
            image = opened.index.stored.image(*opened.place(key))
            tag = f"{image.sha256[:32]}-{size}"
            made = self._pictures.get(tag)
            if made is None:
                try:
                    made = thumbnail(opened.original(image), size, opened.limits)
                except BadImageError as error:
                    raise UnknownImageError(key[:200], f"cannot be shown: {error}") from None
                self._pictures.put(tag, made)
            return made, f'"{tag}"'

    def about(self) -> About:
        """Tell which snapshot answers now, and what can be asked of it."""
        with self._live.use() as opened:
            index = opened.index
            snapshot = index.snapshot
            limits = self.options.limits
            return About(
                snapshot=snapshot.version,
                created_at=snapshot.created_at,
                images=index.images,
                dimensions=index.dim,
                descriptor=snapshot.summary.origin,
                recipe=snapshot.recipe.descriptor_id,
                indexes=[_about(index.spec(kind)) for kind in self._served(opened)],
                can_query_images=opened.extractor is not None,
                can_verify=index.stored.has_local,
                can_locate=opened.can_locate,
                metadata=dict(index.metadata),
                limits={name: getattr(limits, name) for name in ("body_bytes", "pixels", "k", "rerank", "verify")},
            )

    @property
    def longest_vectors(self) -> int:
        """Bytes that a request with vectors may have: as many as fit, with all digits of a number."""
        with self._live.use() as opened:
            return 4096 + MOST_VECTORS * max(64, opened.index.dim) * NUMBER

    def _options(self, opened: Opened, ask: Ask) -> SearchOptions:
        limits: ServeLimits = self.options.limits
        for name in ("k", "rerank", "verify"):
            if (getattr(ask, name) or 0) > getattr(limits, name):
                raise UserError(f"{name} {getattr(ask, name)}", f"is above {getattr(limits, name)}", "ask for less")
        kind = opened.index.spec(ask.index or next(iter(self._served(opened)), "")).kind
        if kind not in self._served(opened):
            raise UserError(f"index {kind}", "is not served here", f"choose from {', '.join(self._served(opened))}")
        return SearchOptions(
            k=ask.k, index=kind, rerank=ask.rerank, verify=ask.verify, effort=ask.effort, where=ask.where
        )

    def _served(self, opened: Opened) -> list[str]:
        """Return the index kinds that may be asked, the preferred one first."""
        return [kind for kind in opened.index.kinds if self.options.kinds is None or kind in self.options.kinds]

    def _bounded(self, data: bytes) -> bytes:
        """Return an image that was sent; UserError when it has more pixels than the service takes from outside."""
        pixels, most = pixels_of(data), self.options.limits.pixels
        if pixels > most:
            raise UserError("image", f"has {pixels} pixels, more than {most}", "send a smaller image")
        return data

    def _described(self, opened: Opened, data: bytes, name: str, box: Box | None, stats: Stats) -> Query:
        if opened.extractor is None:
            raise UserError("image", "cannot be described: the vectors were made elsewhere", "search with vectors")
        with stats.timed("describe"), self._threads():
            return opened.extractor.describe(data, name, box)

    def _found(self, opened: Opened, query: Query, options: SearchOptions, stats: Stats) -> list[Hit]:
        with stats.timed("search"):
            (hits,) = find(opened.index, [query], options)
        return hits

    def _located(
        self,
        opened: Opened,
        data: bytes,
        box: Box | None,
        hits: list[Hit],
        stats: Stats,
        gone: threading.Event | None,
    ) -> list[Hit]:
        if opened.extractor is None:
            raise UserError("locate", "needs a network, and the vectors were made elsewhere", "leave it out")
        with stats.timed("locate"), self._threads():
            locator = opened.locator()
            objects = locator.describe(data if box is None else opened.extractor.cut(data, box))
            located = []
            for hit in hits[: self.options.limits.locate]:
                if gone is not None and gone.is_set():
                    break
                # What geometry has located stays; an original that is gone costs its box only.
                located.append(hit if hit.box is not None else with_box(locator, objects, hit))
            return [*located, *hits[len(located) :]]

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """Divide the cores among the passes under way: one alone has them all."""
        with self._lock:
            self._passes += 1
            share = max(1, self._cores // self._passes)
        torch.set_num_threads(share)
        try:
            yield
        finally:
            with self._lock:
                self._passes -= 1


def _about(spec: IndexSpec) -> IndexModel:
    usual = getattr(spec, spec.effort) if spec.effort else None
    return IndexModel(kind=spec.kind, exact=spec.exact, effort=spec.effort, usual=usual)


def _found(
    opened: Opened, options: SearchOptions, hits: list[list[Hit]], stats: Stats, size: tuple[int, int] = (0, 0)
) -> Found:
    return Found(
        snapshot=opened.index.snapshot.version, index=options.index, hits=hits, seconds=stats.take(), size=size
    )


def _unit(vectors: list[list[float]]) -> Floats:
    """Return vectors of one length as a matrix of unit rows."""
    if len({len(vector) for vector in vectors}) != 1:
        raise UserError("vectors", "differ in length", "send vectors of one length")
    matrix = np.asarray(vectors, np.float64)
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    if not (largest > 0).all():
        raise UserError("vectors", "have no direction: one is zero", "send others")
    # First to a size at which squares neither overflow nor vanish.
    matrix /= largest
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), dtype=np.float32)
