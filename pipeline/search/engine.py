"""Search over one published snapshot: fan out over index shards, merge, drop tombstones, re-rank exactly.

Opens what the snapshot names, verified; publishes nothing. Queries are vectors here; query.py makes them from images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.core import staging
from pipeline.core.errors import UserError
from pipeline.core.metadata import Kind, Value, plain
from pipeline.core.storage import open_store
from pipeline.core.types import Floats
from pipeline.index import IndexSpec
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from pipeline.publish.snapshot import Snapshot
from pipeline.search.descriptors import StoredDescriptors
from pipeline.search.expand import expand
from pipeline.search.filters import Filters
from pipeline.search.keys import Keys
from pipeline.search.merge import Candidates, joined
from pipeline.search.parts import LocalParts, PartQuery, Parts
from pipeline.sources import SourceSpec
from pipeline.table import ImageRow

PREFERENCE = ("flat", "ivfpq")
"""Which index answers when the caller names none: the exact one, else the best approximate one."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One result; score is the cosine with the query, of local descriptors the share of votes.

    inliers: matches that agree in geometry, where that was looked at. box: where the query is, as x, y, width, height
    in pixels of the original image, where it was located. width, height: of the original image. metadata: what the
    recipe carries, None where it carries none.
    """

    key: str
    score: float
    uri: str
    width: int
    height: int
    inliers: int | None = None
    box: tuple[float, float, float, float] | None = None
    metadata: Mapping[str, Value] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what is known, times as ISO 8601."""
        told = {name: value for name, value in vars(self).items() if value is not None}
        return told | ({"metadata": plain(self.metadata)} if self.metadata is not None else {})


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """index "" takes the snapshot's best. rerank: candidates scored exactly, None for max(100, 10 k), 0 for none.

    expand: (K, ALPHA) of query expansion, after which the search is made anew. verify: candidates whose geometry is
    compared with the query's, by local descriptors; those come first that most matches agree on. effort: what the index
    kind calls nprobe, ef_search or checks, None for the recipe's. where: a condition on metadata, see where.py; nothing
    else is looked at, so that k matching images come when k exist. few: up to so many matching images are compared one
    by one, exactly, rather than found by the index; None for max(10,000, 10 x the candidates looked at), and at most as
    many as 64 MB of vectors hold.
    """

    k: int = 10
    index: str = ""
    rerank: int | None = None
    expand: tuple[int, float] | None = None
    verify: int = 0
    effort: int | None = None
    where: str = ""
    few: int | None = None


class SearchIndex:
    """An opened snapshot; thread-safe. Close it, or use it as a context manager, to remove downloaded copies."""

    def __init__(self, catalog: Catalog, snapshot: Snapshot, parts: Parts | None = None) -> None:
        self.snapshot = snapshot
        self._catalog = catalog
        self._folder = staging.folder("search-")
        path = Path(self._folder.name)

        lists = load_lists(catalog, snapshot)
        self._ids = lists.descriptors["id"].combine_chunks()
        self._shards = manifests.index_shards(lists.indexes)
        self._dead = manifests.tombstones(lists.tombstones)
        self.images = snapshot.summary.images
        self.stored = StoredDescriptors(catalog, lists.descriptors, path)
        self.dim = self.stored.dim
        self._keys = Keys(catalog, snapshot.listing, lists, self._dead, self.stored)
        source = snapshot.recipe.source
        self.metadata: Mapping[str, Kind] = source.kinds if isinstance(source, SourceSpec) else {}
        self._filters = Filters(self.stored, self._ids, self._dead, self.metadata)
        self._parts: Parts = LocalParts(catalog, snapshot, lists, path) if parts is None else parts

    @classmethod
    def open(cls, root: str, version: int | None = None) -> Self:
        """Open the latest snapshot of ROOT, or a given one."""
        catalog = Catalog(open_store(root))
        return cls(catalog, catalog.require_head() if version is None else catalog.load_kept(version))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove downloaded copies."""
        self._parts.close()
        self._folder.cleanup()

    @property
    def is_local(self) -> bool:
        """Whether descriptors are local, several per image: see find.py."""
        recipe = self.snapshot.recipe
        return recipe.encode is None and bool(getattr(recipe.extractor, "local", False))

    @property
    def kinds(self) -> list[str]:
        """Index kinds of the snapshot, the preferred one first."""
        there = [spec.kind for spec in self.snapshot.recipe.indexes]
        return sorted(there, key=lambda kind: PREFERENCE.index(kind) if kind in PREFERENCE else len(PREFERENCE))

    def spec(self, kind: str) -> IndexSpec:
        """Return the settings of an index kind; "" means the preferred one."""
        wanted = kind or (self.kinds[0] if self.kinds else "")
        for spec in self.snapshot.recipe.indexes:
            if spec.kind == wanted and isinstance(spec, IndexSpec):
                return spec
        known = ", ".join(self.kinds) or "none"
        raise UserError(f"--index {kind}", f"is not in this snapshot, which has {known}", "choose one of those")

    def search(self, queries: Floats, options: SearchOptions, *, recipe: str = "") -> list[list[Hit]]:
        """Return the k best hits of each query (q, d), best first; UserError for local descriptors, see find.py.

        recipe: by which the queries were made, where that is known; see `expect_recipe`.
        """
        self.expect_recipe(recipe)
        if self.is_local:
            raise UserError("query", "is one vector, and this snapshot has local descriptors", "query with an image")
        results = self.candidates(queries, options)
        return [self.hits(found) for found in results]

    def expect_recipe(self, recipe: str) -> None:
        """Raise a UserError when queries were made by another recipe (its descriptor_id) than what is indexed."""
        mine = self.snapshot.recipe.descriptor_id
        if recipe and recipe != mine:
            raise UserError(
                "query", f"was made by recipe {recipe}, snapshot {self.snapshot.version} by {mine}", "describe it anew"
            )

    def trained(self, spec: IndexSpec) -> Path | None:
        """Return the trained empty index of a kind; None where the snapshot has no index shard of it."""
        mine = self.snapshot.recipe.index_id(spec)
        shard = next((shard for shard in self._shards if shard.fingerprint == mine), None)
        return None if shard is None else self._catalog.fetch(shard.trained, Path(self._folder.name))

    def live(self) -> Candidates:
        """Return every image that is part of the collection, in the order of the snapshot; scores are zero."""
        files, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        names, counts = self._ids.to_pylist(), self.stored.counts
        for number, (name, count) in enumerate(zip(names, counts, strict=True)):
            mine = np.setdiff1d(np.arange(count, dtype=np.int64), self._dead.get(name, np.zeros(0, np.int64)))
            files.append(np.full(len(mine), number, np.int64))
            rows.append(mine)
        file = np.concatenate(files)
        return Candidates(score=np.zeros(len(file), np.float32), file=file, row=np.concatenate(rows))

    def place(self, key: str) -> tuple[int, int] | None:
        """Return descriptor file and row of a live image; None when there is none of that key."""
        return self._keys.place(key, Path(self._folder.name))

    def row(self, key: str) -> ImageRow | None:
        """Return what is stored of a live image beside its descriptor; None when there is none of that key."""
        place = self.place(key)
        return None if place is None else self.stored.image(*place)

    def warm(self, kinds: Sequence[str] | None = None) -> None:
        """Open the index shards of some kinds, or of all, which the first query of each would have to wait for."""
        for kind in self.kinds if kinds is None else kinds:
            nowhere = np.zeros((1, self.dim), np.float32)
            self._parts.search(self.spec(kind), PartQuery(queries=nowhere, depth=1))

    def hits(self, found: Candidates) -> list[Hit]:
        """Return candidates with their names."""
        names = self.stored.names(found.file, found.row, metadata=True)
        scores = found.score.tolist()
        return [Hit(score=score, **vars(name)) for name, score in zip(names, scores, strict=True)]

    def candidates(self, queries: Floats, options: SearchOptions) -> list[Candidates]:
        """Return the k best rows of each query, ranked, without their names."""
        if queries.ndim != 2 or (self.images and queries.shape[1] != self.dim):
            raise UserError("query", f"has {queries.shape[-1]} dimensions, the snapshot {self.dim}", "use its recipe")
        if options.expand is not None:
            queries = self._expanded(queries, options)
        return self._search(queries, options)

    def _search(self, queries: Floats, options: SearchOptions) -> list[Candidates]:
        spec = self.spec(options.index)
        depth = options.k
        # Ids name images: which of its local descriptors was hit is not known, so there is nothing to score again.
        wanted = max(100, 10 * options.k) if options.rerank is None else options.rerank
        rerank = 0 if spec.exact or self.is_local else wanted
        depth = max(depth, rerank)
        asked = PartQuery(queries=queries, depth=depth, effort=options.effort)
        if options.where:
            matches = self._filters.matches(options.where)
            few = self._filters.few(depth) if options.few is None else options.few
            if matches.count <= few and not self.is_local:
                return self._filters.exact(matches, queries, options.k)
            asked = replace(asked, hidden=matches.hidden, hidden_as=matches.where)
        merged = self._parts.search(spec, asked)
        if rerank:
            # Beyond the depth of re-ranking results keep the order of the index, and its estimated scores.
            pairs = zip(queries, merged, strict=True)
            merged = [joined(self.stored.rerank(q, found.first(rerank)), found.after(rerank)) for q, found in pairs]
        return [found.first(options.k) for found in merged]

    def _expanded(self, queries: Floats, options: SearchOptions) -> Floats:
        assert options.expand is not None, "called for query expansion only"
        k, alpha = options.expand
        plain = replace(options, k=k, expand=None)
        out = []
        for query, found in zip(queries, self._search(queries, plain), strict=True):
            near = self.stored.vectors(found.file, found.row)
            out.append(expand(query[None], near[None], alpha)[0] if len(near) else query)
        return np.stack(out)
