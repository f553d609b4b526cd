"""HNSW: a navigable graph over the vectors (Malkov, Yashunin). Nothing is trained; vectors are stored as halves.

An index shard is built by one thread, so that its bytes do not depend on timing; shards are built side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import faiss
import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from pipeline.core.types import Floats, Ints
from pipeline.index import Batch, Engine, IndexSpec, _engine, _faiss
from pipeline.index._live import Live

ROWS_PER_STEP = 100
"""Rows that are compared one after another in the time that a walk takes for one of its candidates, about."""
WIDER = 4
"""How much further the next walk goes where one met too few live rows: all take a third more than the last."""
LEAST_DEGREES = 8
"""Rows over m from which CAGRA builds a graph: it wants more rows than candidates for links; fewer are inserted."""
OVERHEAD = 24
"""Bytes per row beside vector and links: the id, the level and where the links begin."""


class Spec(IndexSpec):
    """m links per vector (2 m on the lowest level); ef_*: candidates kept while building and searching.

    storage: of the vectors inside; scores are inner products with them. build: insert one vector after another, or
    cagra, which builds the graph on a GPU (with faiss-gpu-cuvs) and takes no ef_construction. Its file is opened and
    searched without a GPU all the same.
    """

    effort: ClassVar[str] = "ef_search"

    m: int = Field(default=32, ge=4, le=128)
    ef_construction: int = Field(default=128, ge=8, le=2048)
    ef_search: int = Field(default=96, ge=1, le=4096)
    storage: Literal["float16", "float32"] = "float16"
    build: Literal["insert", "cagra"] = "insert"

    @property
    def needs_gpu(self) -> bool:
        """For CAGRA."""
        return self.build == "cagra"

    def resolve(self, *, rows: int, dim: int, memory_bytes: int | None = None) -> Self:
        """Nothing to choose: a graph cannot be made smaller; UserError when it does not fit a budget."""
        return self.within(rows, dim, memory_bytes)

    def row_bytes(self, dim: int) -> int:
        """The vector, its links and what goes with them."""
        return dim * (2 if self.storage == "float16" else 4) + 2 * self.m * 4 + OVERHEAD

    def fill_bytes(self, rows: int, dim: int) -> int:
        """The graph, and all vectors in float32 as they were read and joined."""
        return self.loaded_bytes(rows, dim) + 2 * rows * dim * 4

    def sample_rows(self, rows: int) -> int:  # noqa: ARG002 - no training
        """No training data."""
        return 0

    def train(
        self,
        sample: Floats,  # noqa: ARG002 - no training
        *,
        dim: int,
        seed: int,  # noqa: ARG002 - no training
        path: Path,
        engine: Engine | None = None,  # noqa: ARG002 - faiss alone
    ) -> None:
        """Write the empty graph; its levels are drawn by a generator of its own seed."""
        _faiss.write(faiss.IndexIDMap(self._empty(dim)), path)

    def _empty(self, dim: int) -> Any:
        graph: Any
        if self.storage == "float16":
            graph = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, self.m, faiss.METRIC_INNER_PRODUCT)
            graph.train(np.zeros((1, dim), np.float32))
        else:
            graph = faiss.IndexHNSWFlat(dim, self.m, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = self.ef_construction, self.ef_search
        return graph

    def fill(
        self,
        trained: Path,
        batches: Iterable[Batch],
        path: Path,
        *,
        engine: Engine | None = None,
    ) -> int:
        """Build the graph over all vectors at once: the order in which a graph grows is part of what it becomes."""
        engine = engine or _engine.FaissEngine()
        self.expect_engine(engine)
        index = _faiss.read(trained)
        parts = [(vectors, ids) for vectors, ids in _faiss.numbered(batches) if len(vectors)]
        if parts:
            vectors, ids = (np.concatenate(columns) for columns in zip(*parts, strict=True))
            if self.build == "cagra" and len(vectors) >= LEAST_DEGREES * self.m:
                self._linked(index, vectors, ids, engine.cagra(vectors, self.m))
            else:
                with threadpool_limits(1):
                    index.add_with_ids(vectors, ids)
        _faiss.write(index, path)
        return int(index.ntotal)

    def _linked(self, index: Any, vectors: Floats, ids: Ints, built: Any) -> None:
        """Fill an empty index with vectors (n, d) and the graph that was built over them."""
        graph = faiss.downcast_index(index.index)
        graph.storage.add(vectors)
        graph.hnsw = built.hnsw
        graph.hnsw.efConstruction, graph.hnsw.efSearch = self.ef_construction, self.ef_search
        graph.ntotal = index.ntotal = len(vectors)
        faiss.copy_array_to_vector(ids, index.id_map)

    def merge(self, parts: Sequence[tuple[Path, int]], path: Path) -> int:
        """Build the graph anew over the vectors of all parts: graphs cannot be joined.

        A graph that was just read draws its levels from the beginning, so the result is that of building the whole.
        What is merged is small (see stages/compact.py): vectors are inserted, however the parts were built.
        """
        vectors, ids, merged = [], [], None
        for part, positions in parts:
            index = _faiss.read(part)
            graph = faiss.downcast_index(index.index)
            vectors.append(graph.reconstruct_n(0, graph.ntotal) if graph.ntotal else np.zeros((0, index.d), np.float32))
            ids.append(_faiss.shifted(faiss.vector_to_array(index.id_map), positions))
            merged = index
        assert merged is not None, "there is something to merge"
        if self.build == "cagra":
            merged = faiss.IndexIDMap(self._empty(merged.d))
        merged.reset()
        stacked = np.concatenate(vectors)
        if len(stacked):
            with threadpool_limits(1):
                merged.add_with_ids(stacked, np.concatenate(ids))
        _faiss.write(merged, path)
        return int(merged.ntotal)

    def load(self, path: Path, *, rows: int, dim: int) -> HnswSearcher:
        """Open for searching."""
        index = _faiss.read(path)
        _faiss.expect(path, index, rows=rows, dim=dim, types=(faiss.IndexIDMap,))
        graph = faiss.downcast_index(index.index)
        _faiss.expect(path, graph, rows=rows, dim=dim, types=(faiss.IndexHNSWSQ, faiss.IndexHNSWFlat))
        return HnswSearcher(index, graph, self.ef_search)


class HnswSearcher:
    """See pipeline.index.Searcher."""

    def __init__(self, index: Any, graph: Any, ef_search: int) -> None:
        self._index, self._graph, self._ef = index, graph, ef_search
        self._storage = faiss.downcast_index(graph.storage)
        self._ids = _faiss.ids_of(index)
        self._selectors = _faiss.Remembered(lambda exclude: _faiss.row_selector(exclude, self._ids))
        self._live = _faiss.Remembered(lambda exclude: Live.of(self._ids, exclude))
        self.rows, self.dim = int(index.ntotal), int(index.d)

    def search(self, queries: Floats, k: int, *, exclude: Ints, effort: int | None = None) -> tuple[Floats, Ints]:
        """Walk the graph; with exclusions, until enough of the nearest rows are live, or compare with all live ones.

        A walk of ef candidates ends with about the ef nearest rows, live or not. A graph of the live rows alone would
        end with `width` live ones: half of that is enough.
        """
        queries, k = np.ascontiguousarray(queries, np.float32), min(k, self.rows)
        width = max(effort or self._ef, 2 * k)
        if not len(exclude):
            parameters = faiss.SearchParametersHNSW(efSearch=width)
            scores, rows = self._graph.search(queries, k, params=parameters)
            short = np.flatnonzero((rows < 0).any(axis=1))
            if len(short):
                scores[short], rows[short] = self._storage.search(queries[short], k)
            return self._named(scores, rows)
        live = self._live.of(exclude)
        scores, rows = np.zeros((len(queries), k), np.float32), np.full((len(queries), k), -1, np.int64)
        left, wide = np.arange(len(queries)), int(width / live.share)
        while len(left) and ROWS_PER_STEP * wide < live.count:
            parameters = faiss.SearchParametersHNSW(efSearch=wide)
            near, walked = self._graph.search(queries[left], min(wide, self.rows), params=parameters)
            scores[left], rows[left], met = live.first(near, walked, k)
            left, wide = left[met < width // 2], WIDER * wide
        if len(left):
            scores[left], rows[left] = self._scan(queries[left], k, exclude)
        return self._named(scores, rows)

    def _scan(self, queries: Floats, k: int, exclude: Ints) -> tuple[Floats, Ints]:
        keep = self._selectors.of(exclude)
        found: tuple[Floats, Ints] = self._storage.search(queries, k, params=faiss.SearchParameters(sel=keep[0]))
        return found

    def _named(self, scores: Floats, rows: Ints) -> tuple[Floats, Ints]:
        return _faiss.in_order(scores, np.where(rows < 0, -1, self._ids[rows]))
