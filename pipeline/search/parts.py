"""The index shards of a snapshot, opened: each is searched, what is hidden is left out, results are merged.

`Parts` is what the engine asks of them; `LocalParts` opens files in this process. Names and exact scores are the
engine's business.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.types import Floats, IndexShard, Ints
from pipeline.index import IndexSpec, Searcher
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.manifests import Rows
from pipeline.publish.snapshot import Snapshot
from pipeline.search.merge import Candidates, located, ranked

NOTHING = Candidates(score=np.zeros(0, np.float32), file=np.zeros(0, np.int64), row=np.zeros(0, np.int64))
KEPT = 4
"""Sets of hidden images that are remembered; a search index keeps as many selectors."""


@dataclass(frozen=True, kw_only=True)
class PartQuery:
    """What is asked of index shards: the `depth` best of each query (q, d).

    effort: see pipeline.index.IndexSpec. hidden: images that are not to be found, beside those that are buried;
    sorted rows by descriptor file id. hidden_as: a name for them, under which what they become is kept for the next
    query: equal names mean equal rows. "" keeps nothing.
    """

    queries: Floats
    depth: int
    effort: int | None = None
    hidden: Rows | None = None
    hidden_as: str = ""


class Parts(Protocol):
    """The index shards of a snapshot; thread-safe."""

    def search(self, spec: IndexSpec, query: PartQuery) -> list[Candidates]:
        """Return the best of each query over all shards of a kind, ranked; fewer where there are fewer."""
        ...

    def close(self) -> None:
        """Let go of what was opened."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Part:
    searcher: Searcher
    names: tuple[str, ...]
    files: Ints
    exclude: Ints


class LocalParts:
    """Index shards opened in this process, those of a kind when it is first asked for.

    folder: where copies of remote files go. share: (i, n) opens every nth shard of a kind, from the ith on, by size.
    """

    def __init__(
        self, catalog: Catalog, snapshot: Snapshot, lists: Lists, folder: Path, share: tuple[int, int] = (0, 1)
    ) -> None:
        self._catalog, self._recipe, self._folder, self._share = catalog, snapshot.recipe, folder, share
        self._shards = manifests.index_shards(lists.indexes)
        self._ids = lists.descriptors["id"].combine_chunks()
        self._dead = manifests.tombstones(lists.tombstones)
        self._dim = int(lists.descriptors["dim"][0].as_py()) if lists.descriptors.num_rows else 0
        self._parts: dict[str, list[_Part]] = {}
        self._hidden: OrderedDict[tuple[str, str], list[Ints]] = OrderedDict()
        self._lock = threading.Lock()

    def search(self, spec: IndexSpec, query: PartQuery) -> list[Candidates]:
        """Search shard after shard; each returns as many as are live in it, so that k live ones come when k exist."""
        per_query: list[list[Candidates]] = [[] for _ in range(len(query.queries))]
        parts = self._opened(spec)
        for part, exclude in zip(parts, self._excluded(spec.kind, parts, query), strict=True):
            # Ids name images: of local descriptors there are more rows than images, and this is an upper bound.
            live = part.searcher.rows - len(exclude)
            if live > 0:
                depth = min(query.depth, live)
                scores, ids = part.searcher.search(query.queries, depth, exclude=exclude, effort=query.effort)
                for number, found in enumerate(per_query):
                    found.append(located(scores[number], ids[number], part.files))
        return [ranked(found).first(query.depth) if found else NOTHING for found in per_query]

    def _excluded(self, kind: str, parts: Sequence[_Part], query: PartQuery) -> list[Ints]:
        """Return the ids of each part that are buried or hidden; the same arrays for the same names."""
        hidden, name = query.hidden, (kind, query.hidden_as)
        if not hidden:
            return [part.exclude for part in parts]
        with self._lock:
            known = self._hidden.get(name) if query.hidden_as else None
        excluded = known or [_united(part.exclude, _ids_of(part.names, hidden)) for part in parts]
        if query.hidden_as:
            with self._lock:
                self._hidden[name] = excluded
                self._hidden.move_to_end(name)
                while len(self._hidden) > KEPT:
                    self._hidden.popitem(last=False)
        return excluded

    def load(self, spec: IndexSpec) -> None:
        """Open the shards of a kind now, rather than when it is first asked for."""
        self._opened(spec)

    def close(self) -> None:
        """Forget the opened files; who made the folder removes it."""
        with self._lock:
            self._parts = {}
            self._hidden.clear()

    def _opened(self, spec: IndexSpec) -> list[_Part]:
        with self._lock:
            if spec.kind not in self._parts:
                self._parts[spec.kind] = [self._open(spec, shard) for shard in self._mine(spec)]
            return self._parts[spec.kind]

    def _mine(self, spec: IndexSpec) -> list[IndexShard]:
        return dealt(self._shards, self._recipe.index_id(spec), self._share)

    def _open(self, spec: IndexSpec, shard: IndexShard) -> _Part:
        path = self._catalog.fetch(shard.artifact, self._folder)
        return _Part(
            searcher=spec.load(path, rows=shard.rows, dim=self._dim),
            names=shard.files,
            files=pc.fill_null(pc.index_in(pa.array(shard.files), self._ids), -1).to_numpy().astype(np.int64),
            exclude=_ids_of(shard.files, self._dead),
        )


def dealt(shards: Sequence[IndexShard], index_id: str, share: tuple[int, int]) -> list[IndexShard]:
    """Return the shards of one kind's index that are in share i of n: every nth from the ith on, in order of size.

    Shares differ by the bytes of one shard at most.
    """
    mine = [shard for shard in shards if shard.fingerprint == index_id]
    first, step = share
    return sorted(mine, key=lambda shard: (-shard.artifact.bytes, shard.artifact.uri))[first::step]


def _ids_of(files: Sequence[str], rows: Rows) -> Ints:
    """Return the faiss ids, sorted, of rows of an index shard's descriptor files."""
    ids = [(np.int64(position) << np.int64(32)) + rows[name] for position, name in enumerate(files) if name in rows]
    return np.concatenate(ids) if ids else np.zeros(0, np.int64)


def _united(one: Ints, other: Ints) -> Ints:
    """Return the ids of both, sorted as they are; np.union1d would hash them, which takes ten times as long."""
    if not len(one) or not len(other):
        return one if len(one) else other
    both: Ints = np.sort(np.concatenate([one, other]), kind="stable")
    found: Ints = both[np.append(True, both[1:] != both[:-1])]
    return found
