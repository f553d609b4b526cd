"""IVF-PQ: inverted lists of product-quantised residuals, by inner product; with an OPQ rotation where it pays.

Settings left open are chosen from rows, dimension and memory budget, and checked against faiss's limits (those of its
GPU indexes too) before any work starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import faiss
import numpy as np
from pydantic import Field, model_validator

from pipeline.core.errors import IntegrityError, UserError
from pipeline.core.types import Floats, Ints
from pipeline.index import Batch, Engine, IndexSpec, Layout, _engine, _faiss, _pq
from pipeline.index._live import POINTS_PER_LIST, probes

GPU_NPROBE = 2048
FAST_BITS = 4
MAX_SAMPLE = 4_000_000
OPQ_MIN_ROWS = 10_000
"""Below, the rotation is fitted to noise; measured recall does not gain."""
TABLES = 2 << 30
"""faiss's own bound on the distance tables that it may compute when it reads an index."""
OVERHEAD = 8
"""Bytes per row beside the code: the id."""
PER_LIST = 64
"""Bytes of a list in memory beside its rows: where codes and ids begin, and how many there are."""
BLOCK = 32
"""Rows whose codes fast scan packs together; the last block of a list is half full on average."""


class Spec(IndexSpec):
    """nlist lists, m codes of nbits bits each, opq rotation, nprobe lists searched. None is chosen by `resolve`.

    fast_scan: codes of 4 bits, twice as many of them, compared in registers (André et al., 2015). The file holds them
    as it always does; opening packs them in memory. width: the dimension that vectors are padded to by a rotation, so
    that m divides it; None is the least such.
    """

    effort: ClassVar[str] = "nprobe"

    nlist: int | None = Field(default=None, ge=1)
    m: int | None = Field(default=None, ge=1)
    nbits: int = Field(default=8, ge=4, le=8)
    opq: bool | None = None
    nprobe: int | None = Field(default=None, ge=1)
    fast_scan: bool = False
    width: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fast_scan and "nbits" in self.model_fields_set and self.nbits != FAST_BITS:
            raise ValueError(f"fast_scan takes codes of {FAST_BITS} bits, not {self.nbits}")
        return self

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return FAST_BITS if self.fast_scan else self.nbits

    def resolve(self, *, rows: int, dim: int, memory_bytes: int | None = None) -> Self:
        """Choose nlist ~ 4 √n (≥ 39 points each), m from the budget (else about d/4, ≤ 64), nprobe for good recall."""
        nlist = self.lists(rows)
        if nlist > rows:
            raise UserError(f"ivfpq nlist {nlist}", f"exceeds the {rows} rows there are", "use fewer lists")
        nprobe = self.nprobe or min(GPU_NPROBE, max(1, min(nlist, 16), nlist // 16))
        if nprobe > min(nlist, GPU_NPROBE):
            raise UserError(f"ivfpq nprobe {nprobe}", f"exceeds {min(nlist, GPU_NPROBE)}", "search fewer lists")
        opq = self.opq if self.opq is not None else rows >= OPQ_MIN_ROWS
        settled = self.model_copy(update={"nlist": nlist, "opq": opq, "nprobe": nprobe})

        def needs(m: int) -> int:
            return settled.with_codes(m, dim).loaded_bytes(rows, dim)

        fits = None if memory_bytes is None else lambda m: needs(m) <= memory_bytes
        m = self.m or _pq.chosen(dim, codes_per_byte=8 // FAST_BITS if self.fast_scan else 1, fits=fits)
        if memory_bytes is not None and (m is None or needs(m) > memory_bytes):
            what = f"ivfpq over {rows} rows" + ("" if self.m is None else f" with m {self.m}")
            raise UserError(what, f"needs {needs(self.m or 1)} bytes at least", "raise --index-memory")
        assert m is not None, "without a budget there is a code size for every dimension"
        self._expect_possible(m, dim)
        return settled.with_codes(m, dim)

    def lists(self, rows: int) -> int:
        """About 4 √n, of 39 vectors at least."""
        return self.nlist or max(1, min(round(4 * rows**0.5), rows // POINTS_PER_LIST, 1 << 18))

    def _expect_possible(self, m: int, dim: int) -> None:
        possible = _pq.sizes(dim, gpu=not self.fast_scan)
        if m not in possible:
            why = f"is more than the {dim} dimensions" if m > dim else "is no code size that faiss's GPU index takes"
            raise UserError(f"ivfpq m {m}", why, f"use one of {', '.join(map(str, possible[-12:]))}")
        if self.width is not None and (self.width < dim or self.width % m):
            least = _pq.padded(dim, m)
            raise UserError(f"ivfpq width {self.width}", f"is no multiple of m {m} from {dim} on", f"use {least}")

    def with_codes(self, m: int, dim: int) -> Self:
        """Return the settings with m codes over vectors of length `dim`, padded where m does not divide it."""
        width = self.width or _pq.padded(dim, m)
        return self.model_copy(update={"m": m, "width": None if width == dim else width})

    def of_size(self, row_bytes: int, *, rows: int, dim: int) -> Self:
        """Settle, with the code size that is seen in published files."""
        codes = (row_bytes - OVERHEAD) * 8 // self.bits
        there = [m for m in _pq.sizes(dim, gpu=not self.fast_scan) if m <= max(1, codes)]
        stated = self if self.m is not None else self.model_copy(update={"m": there[-1]})
        return stated.resolve(rows=rows, dim=dim)

    def row_bytes(self, dim: int) -> int:  # noqa: ARG002 - the code's size is a setting
        """The code, and its id."""
        assert self.m is not None, "settings are resolved before sizing"
        return -(-self.m * self.bits // 8) + OVERHEAD

    def loaded_bytes(self, rows: int, dim: int) -> int:
        """Codes and ids, of fast scan twice; centroids, codebooks, rotation, and what each list takes.

        By inner product there are no tables that faiss computes on loading.
        """
        assert self.nlist is not None, "settings are resolved before sizing"
        width = self.width or dim
        rotation = dim * width if self.opq or width != dim else 0
        floats = self.nlist * width + (1 << self.bits) * width + rotation
        per_list = PER_LIST
        per_row = self.row_bytes(dim)
        if self.fast_scan:
            per_list += PER_LIST + BLOCK // 2 * (per_row - OVERHEAD)
            per_row *= 2
        return rows * per_row + 4 * floats + self.nlist * per_list

    def sample_rows(self, rows: int) -> int:
        """64 points per list, within bounds."""
        assert self.nlist is not None, "settings are resolved before sampling"
        return min(rows, MAX_SAMPLE, max(64 * self.nlist, 65_536))

    def training_work(self, rows: int, dim: int) -> float:
        """Distances to lists, and to codes of codebooks and rotation."""
        return _engine.training_work(self._layout(dim), rows)

    def filling_work(self, lists: int, dim: int) -> float:
        """One inner product per list, one distance per code."""
        return float((lists + (1 << self.bits)) * (self.width or dim))

    def _layout(self, dim: int) -> Layout:
        assert self.nlist is not None, "settings are resolved before training"
        assert self.m is not None, "settings are resolved before training"
        return Layout(dim=dim, width=self.width or dim, nlist=self.nlist, m=self.m, bits=self.bits, opq=bool(self.opq))

    def train(self, sample: Floats, *, dim: int, seed: int, path: Path, engine: Engine | None = None) -> None:
        """Train quantisers. A sample smaller than the codebook is repeated: k-means wants a point per centroid."""
        assert self.nprobe is not None, "settings are resolved before training"
        layout = self._layout(dim)
        least = max(1 << layout.bits, layout.nlist)
        points = np.ascontiguousarray(
            np.resize(sample, (max(len(sample), least), dim)) if len(sample) < least else sample
        )
        index = (engine or _engine.FaissEngine()).train(points, layout, seed)
        faiss.extract_index_ivf(index).nprobe = self.nprobe
        _faiss.write(index, path)

    def fill(self, trained: Path, batches: Iterable[Batch], path: Path, *, engine: Engine | None = None) -> int:
        """Add codes under their ids."""
        return _faiss.fill(trained, batches, path, tables=TABLES, engine=engine)

    def health(self, trained: Path, sample: Floats) -> dict[str, float]:
        """Return imbalance nlist Σ (nᵢ/n)² (1 when lists are equal), share of empty lists, mean squared PQ error."""
        index = _faiss.read(trained, tables=TABLES)
        ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
        x = index.chain.at(0).apply(sample) if isinstance(index, faiss.IndexPreTransform) else sample
        _, lists = ivf.quantizer.search(np.ascontiguousarray(x), 1)
        shares = np.bincount(lists[:, 0], minlength=ivf.nlist) / len(x)
        x = np.ascontiguousarray(x)
        decoded = ivf.sa_decode(ivf.sa_encode(x))
        return {
            "imbalance": float(ivf.nlist * (shares**2).sum()),
            "empty_lists": float((shares == 0).mean()),
            "quantisation_error": float(((decoded - x) ** 2).sum(axis=1).mean()),
        }

    def list_sizes(self, path: Path) -> Ints:
        """Return the sizes of the lists; their content stays on disk."""
        index = _faiss.read(path, mmap=True, tables=TABLES)
        return _faiss.list_sizes(faiss.extract_index_ivf(index))

    def merge(self, parts: Sequence[tuple[Path, int]], path: Path) -> int:
        """Merge inverted lists of indexes with the same quantisers."""
        merged = _faiss.read(parts[0][0], tables=TABLES)
        merged.reset()
        for part, positions in parts:
            other = _faiss.read(part, tables=TABLES)
            try:
                merged.check_compatible_for_merge(other)
            except RuntimeError as error:
                line = " ".join(str(error).split())[-120:]
                raise IntegrityError(part.name, f"cannot be merged with {parts[0][0].name} ({line})") from None
            faiss.extract_index_ivf(merged).merge_from(faiss.extract_index_ivf(other), positions << 32)
            merged.ntotal = faiss.extract_index_ivf(merged).ntotal
        _faiss.write(merged, path)
        return int(merged.ntotal)

    def load(self, path: Path, *, rows: int, dim: int) -> IvfPqSearcher:
        """Open for searching, inverted lists memory-mapped."""
        index = _faiss.read(path, mmap=not self.fast_scan, tables=TABLES)
        _faiss.expect(path, index, rows=rows, dim=dim, types=(faiss.IndexIVFPQ, faiss.IndexPreTransform))
        ivf = faiss.extract_index_ivf(index)
        width = index.chain.at(0).d_out if isinstance(index, faiss.IndexPreTransform) else dim
        _faiss.expect(path, faiss.downcast_index(ivf), rows=rows, dim=width, types=(faiss.IndexIVFPQ,))
        return IvfPqSearcher(_packed(index) if self.fast_scan else index, index, self.nprobe or int(ivf.nprobe))


def _packed(index: Any) -> Any:
    """Return the index with its codes packed for comparison in registers."""
    plain = faiss.downcast_index(faiss.extract_index_ivf(index))
    packed = faiss.IndexIVFPQFastScan(plain)
    # It borrows the coarse quantiser of the index it was made of.
    packed.referenced_objects = [index, plain]
    if not isinstance(index, faiss.IndexPreTransform):
        return packed
    whole = faiss.IndexPreTransform(index.chain.at(0), packed)
    whole.referenced_objects = [index, packed]
    return whole


class IvfPqSearcher:
    """See pipeline.index.Searcher. Scores are inner products with the quantised vectors."""

    def __init__(self, index: Any, plain: Any, nprobe: int) -> None:
        self._index, self._plain, self._nprobe = index, plain, nprobe
        self._ivf, self._lists = (faiss.downcast_index(faiss.extract_index_ivf(one)) for one in (index, plain))
        self.rows, self.dim = int(index.ntotal), int(index.d)
        self._selectors = _faiss.Remembered(lambda exclude: _faiss.selector(exclude, self._ids, self.rows))
        self._live = _faiss.Remembered(self._live_in)

    def search(self, queries: Floats, k: int, *, exclude: Ints, effort: int | None = None) -> tuple[Floats, Ints]:
        """Search nprobe lists, and all of them where those hold fewer than k vectors; with exclusions see `probes`."""
        queries, k = np.ascontiguousarray(queries, np.float32), min(k, self.rows)
        # Fast scan finds garbage when asked for more lists than there are.
        nprobe = min(effort or self._nprobe, int(self._ivf.nlist))
        if len(exclude):
            return _faiss.in_order(*self._live_ones(queries, k, exclude, nprobe))
        scores, ids = self._probe(self._index, queries, k, nprobe)
        short = np.flatnonzero((ids >= 0).sum(axis=1) < k)
        if len(short):
            scores[short], ids[short] = self._probe(self._plain, queries[short], k, int(self._ivf.nlist))
        return _faiss.in_order(scores, ids)

    def _probe(self, index: Any, queries: Floats, k: int, nprobe: int) -> tuple[Floats, Ints]:
        parameters = faiss.SearchParametersIVF(nprobe=nprobe)
        if isinstance(index, faiss.IndexPreTransform):
            parameters = faiss.SearchParametersPreTransform(index_params=parameters)
        scores, ids = index.search(queries, k, params=parameters)
        return scores, ids

    def _live_ones(self, queries: Floats, k: int, exclude: Ints, nprobe: int) -> tuple[Floats, Ints]:
        """Search the nearest lists with live rows: as many as an index of these alone would, and that hold k."""
        live = self._live.of(exclude)
        # What fast scan rounds is of no use where every live row is a result.
        ivf = self._ivf if k < live.sum() else self._lists
        x = self._index.chain.at(0).apply(queries) if isinstance(self._index, faiss.IndexPreTransform) else queries
        keys, coarse = probes(self._lists.quantizer, x, live, nprobe=nprobe, least=k, rows=self.rows)
        keep = self._selectors.of(exclude)
        parameters = faiss.SearchParametersIVF(nprobe=keys.shape[1], sel=keep[0])
        scores, ids = np.zeros((len(x), k), np.float32), np.full((len(x), k), -1, np.int64)
        arrays = (faiss.swig_ptr(array) for array in (keys, coarse, scores, ids))
        ivf.search_preassigned_c(len(x), faiss.swig_ptr(x), k, *arrays, False, parameters)
        return scores, ids

    def _live_in(self, exclude: Ints) -> Ints:
        """Return how many rows of each list are live, (nlist,)."""
        sizes = _faiss.list_sizes(self._lists)
        dead = np.concatenate([[0], np.cumsum(_faiss.among(self._ids(), exclude))])
        ends = np.cumsum(sizes)
        return np.asarray(sizes - (dead[ends] - dead[ends - sizes]), np.int64)

    def _ids(self) -> Ints:
        """Return the ids of all lists, one after another."""
        lists = self._lists.invlists
        sizes = [lists.list_size(number) for number in range(lists.nlist)]
        parts = [faiss.rev_swig_ptr(lists.get_ids(number), size).copy() for number, size in enumerate(sizes) if size]
        return np.concatenate([np.zeros(0, np.int64), *parts])
