"""Flat: every vector as it is, exact inner products. The yardstick of the approximate kinds, enough for 10^6 images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import faiss
import numpy as np

from pipeline.core.types import Floats, Ints
from pipeline.index import Batch, Engine, IndexSpec, _faiss


class Spec(IndexSpec):
    """No settings: float32 vectors, 4 d bytes each."""

    exact: ClassVar[bool] = True

    def resolve(self, *, rows: int, dim: int, memory_bytes: int | None = None) -> Self:  # noqa: ARG002 - no choices
        """Nothing to choose."""
        return self

    def row_bytes(self, dim: int) -> int:
        """The vector, and its id."""
        return 4 * dim + 8

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
        """Write the empty index."""
        _faiss.write(faiss.IndexIDMap(faiss.IndexFlatIP(dim)), path)

    def fill(
        self,
        trained: Path,
        batches: Iterable[Batch],
        path: Path,
        *,
        engine: Engine | None = None,  # noqa: ARG002 - faiss alone
    ) -> int:
        """Add vectors under their ids."""
        return _faiss.fill(trained, batches, path)

    def merge(self, parts: Sequence[tuple[Path, int]], path: Path) -> int:
        """Concatenate."""
        return _faiss.merge_mapped(parts, path)

    def load(self, path: Path, *, rows: int, dim: int) -> FlatSearcher:
        """Open for searching."""
        index = _faiss.read(path)
        _faiss.expect(path, index, rows=rows, dim=dim, types=(faiss.IndexIDMap,))
        _faiss.expect(path, faiss.downcast_index(index.index), rows=rows, dim=dim, types=(faiss.IndexFlat,))
        return FlatSearcher(index, faiss.downcast_index(index.index))


class FlatSearcher:
    """See pipeline.index.Searcher."""

    def __init__(self, index: Any, vectors: Any) -> None:
        self._index, self._vectors = index, vectors
        self._ids = _faiss.ids_of(index)
        self._selectors = _faiss.Remembered(lambda exclude: _faiss.row_selector(exclude, self._ids))
        self.rows, self.dim = int(index.ntotal), int(index.d)

    def search(
        self,
        queries: Floats,
        k: int,
        *,
        exclude: Ints,
        effort: int | None = None,  # noqa: ARG002 - has none
    ) -> tuple[Floats, Ints]:
        """Return exact inner products."""
        keep = self._selectors.of(exclude)
        parameters = faiss.SearchParameters(sel=keep[0]) if keep is not None else None
        scores, rows = self._vectors.search(
            np.ascontiguousarray(queries, np.float32), min(k, self.rows), params=parameters
        )
        return _faiss.in_order(scores, np.where(rows < 0, -1, self._ids[rows]))
