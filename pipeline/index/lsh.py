"""LSH: sign bits of projections, ranked by Hamming distance. Small, quick to build, approximate; scanned whole.

Projections are random (a rotation), with thresholds at the medians of a sample, or learned by ITQ: a PCA, turned so
that its signs lose least (Gong, Lazebnik, "Iterative quantization", 2011). ITQ gives more per bit, and no more bits
than dimensions. Bit sampling (Indyk, Motwani, 1998) projects nothing: its bits are drawn from the coordinates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import faiss
import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from pipeline.core.errors import UserError
from pipeline.core.types import Floats, Ints
from pipeline.index import Batch, Engine, IndexSpec, _binary, _faiss

MIN_BITS, MAX_BITS = 256, 4096
_TRAIN_ROWS = 65_536


class Spec(IndexSpec):
    """nbits per vector (None: twice the dimension, within 256..4096; for itq and sample the dimension).

    thresholds: split each bit of a random projection at its median.
    """

    nbits: int | None = Field(default=None, ge=8, le=1 << 16)
    thresholds: bool = True
    rotation: Literal["random", "itq", "sample"] = "random"

    @property
    def signs_alone(self) -> bool:
        """Of coordinates that are sampled, without thresholds."""
        return self.rotation == "sample" and not self.thresholds

    def resolve(self, *, rows: int, dim: int, memory_bytes: int | None = None) -> Self:
        """Choose nbits from the dimension, within the memory budget; UserError when the budget has no room."""
        if self.rotation != "random" and (dim < 8 or (self.nbits or 0) > dim):
            raise UserError(f"lsh {self.rotation} over {dim} dimensions", "gives 8 to as many bits", "use random")
        if self.nbits is not None:
            if self.nbits % 8:
                raise UserError(f"lsh nbits {self.nbits}", "is not a multiple of 8", f"use {self.nbits // 8 * 8 + 8}")
            return self.within(rows, dim, memory_bytes)
        bits = min(MAX_BITS, max(MIN_BITS, 2 * dim) if self.rotation == "random" else dim)
        if memory_bytes is not None:
            bits = min(bits, (memory_bytes - 8 * rows) * 8 // (rows + 32 * (dim + 1)))
        bits = bits // 8 * 8
        if bits < (64 if self.rotation == "random" else 8):
            raise UserError(f"lsh over {rows} rows", "does not fit the memory budget", "raise --index-memory")
        return self.model_copy(update={"nbits": bits})

    def loaded_bytes(self, rows: int, dim: int) -> int:
        """Codes and ids, and the projection with its thresholds."""
        assert self.nbits is not None, "settings are resolved before sizing"
        return rows * self.row_bytes(dim) + 4 * self.nbits * (dim + 1)

    def of_size(self, row_bytes: int, *, rows: int, dim: int) -> Self:
        """Settle, with the code size that is seen in published files."""
        bits = 8 * max(1, row_bytes - 8)
        stated = self if self.nbits is not None else self.model_copy(update={"nbits": bits})
        return stated.resolve(rows=rows, dim=dim)

    def row_bytes(self, dim: int) -> int:  # noqa: ARG002 - the code's size is a setting
        """The code, and its id."""
        assert self.nbits is not None, "settings are resolved before sizing"
        return self.nbits // 8 + 8

    def sample_rows(self, rows: int) -> int:
        """Enough for medians; some to see that codes differ."""
        return min(rows, _TRAIN_ROWS if self.thresholds or self.rotation == "itq" else _binary.CHECKED)

    def train(
        self,
        sample: Floats,
        *,
        dim: int,
        seed: int,
        path: Path,
        engine: Engine | None = None,  # noqa: ARG002 - faiss alone
    ) -> None:
        """Draw the rotation, and set the thresholds to the sample's medians; or learn it."""
        assert self.nbits is not None, "settings are resolved before training"
        points = np.ascontiguousarray(sample if len(sample) else np.zeros((1, dim), np.float32))
        made = {"itq": self._learned, "sample": self._sampled, "random": self._random}
        with threadpool_limits(1):
            index = made[self.rotation](points, seed)
            _binary.expect_different("lsh", index.sa_encode(points[: _binary.CHECKED]), points[: _binary.CHECKED])
        _faiss.write(faiss.IndexIDMap(index), path)

    def _random(self, points: Floats, seed: int) -> Any:
        """Return an empty index of random projections; the rotation depends on the seed alone."""
        index = faiss.IndexLSH(points.shape[1], self.nbits, True, self.thresholds)
        index.rrot.init(seed + 5)
        if self.thresholds:
            index.train(points)
            _even(index, index.rrot.apply(points[: _binary.SPLIT_ROWS]))
        index.is_trained = True
        return index

    def _learned(self, points: Floats, seed: int) -> Any:
        """Return an empty index of ITQ codes, learned from points (n, dim)."""
        assert self.nbits is not None, "settings are resolved before training"
        transform = _binary.itq(points, points.shape[1], self.nbits, seed)
        return faiss.IndexPreTransform(transform, faiss.IndexLSH(self.nbits, self.nbits, False, False))

    def _sampled(self, points: Floats, seed: int) -> Any:
        """Return an empty index whose bits are coordinates, drawn without replacement, above their medians or zero."""
        dim = points.shape[1]
        drawn = np.random.default_rng(seed).permutation(dim)
        # Coordinates that are the same for all come last: they tell nothing apart.
        constant = np.ptp(points, axis=0) == 0
        drawn = drawn[np.argsort(constant[drawn], kind="stable")][: self.nbits].astype(np.int32)
        remap = faiss.RemapDimensionsTransform(dim, self.nbits, True)
        faiss.copy_array_to_vector(drawn, remap.map)
        codes = faiss.IndexLSH(self.nbits, self.nbits, False, self.thresholds)
        if self.thresholds:
            values = np.ascontiguousarray(points[:, drawn])
            codes.train(values)
            _even(codes, values[: _binary.SPLIT_ROWS])
        codes.is_trained = True
        index = faiss.IndexPreTransform(remap, codes)
        index.is_trained = True
        return index

    def fill(
        self,
        trained: Path,
        batches: Iterable[Batch],
        path: Path,
        *,
        engine: Engine | None = None,  # noqa: ARG002 - faiss alone
    ) -> int:
        """Add codes under their ids."""
        with threadpool_limits(1):
            return _faiss.fill(trained, batches, path)

    def merge(self, parts: Sequence[tuple[Path, int]], path: Path) -> int:
        """Concatenate."""
        return _faiss.merge_mapped(parts, path)

    def load(self, path: Path, *, rows: int, dim: int) -> LshSearcher:
        """Open for searching."""
        index = _faiss.read(path)
        _faiss.expect(path, index, rows=rows, dim=dim, types=(faiss.IndexIDMap,))
        inner = faiss.downcast_index(index.index)
        _faiss.expect(path, inner, rows=rows, dim=dim, types=(faiss.IndexLSH, faiss.IndexPreTransform))
        codes = faiss.downcast_index(inner.index) if isinstance(inner, faiss.IndexPreTransform) else inner
        _faiss.expect(path, codes, rows=rows, dim=codes.d, types=(faiss.IndexLSH,))
        return LshSearcher(index, codes)


def _even(index: Any, values: Floats) -> None:
    """Move those thresholds of an IndexLSH, medians of values (n, nbits), that do not split these."""
    medians = faiss.vector_to_array(index.thresholds)
    moved = _binary.even_thresholds(values, medians).astype(np.float32)
    faiss.copy_array_to_vector(moved, index.thresholds)


class LshSearcher:
    """See pipeline.index.Searcher. Scores are cos(π · Hamming / nbits), the angle that random hyperplanes estimate."""

    def __init__(self, index: Any, inner: Any) -> None:
        self._index, self._bits = index, int(inner.nbits)
        self._ids = _faiss.ids_of(index)
        self._buried = _faiss.Remembered(lambda exclude: _faiss.among(self._ids, exclude))
        self._codes = faiss.downcast_index(index.index)
        self.rows, self.dim = int(index.ntotal), int(index.d)

    def search(
        self,
        queries: Floats,
        k: int,
        *,
        exclude: Ints,
        effort: int | None = None,  # noqa: ARG002 - has none
    ) -> tuple[Floats, Ints]:
        """Rank codes; IndexLSH knows no selector, so more are fetched and what is excluded is dropped."""
        buried = self._buried.of(exclude)
        queries = np.ascontiguousarray(queries, np.float32)

        def fetch(which: Ints, count: int) -> tuple[Floats, Ints]:
            distance, rows = self._codes.search(queries[which], count)
            ids = np.where(buried[rows], -1, self._ids[rows])
            return np.cos(np.pi * distance / self._bits).astype(np.float32), ids

        live = self.rows - int(buried.sum())
        return _faiss.first_live(fetch, len(queries), k, live=live, rows=self.rows)
