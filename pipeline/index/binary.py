"""Binary codes ranked by Hamming distance: scanned whole, in inverted lists, by hashing, or along a graph.

A code is the signs of the vector itself (learned hash codes, which Parquet holds packed), of a random rotation, or of
one learned by ITQ. The file is safetensors: faiss's binary index, the ids, and the rotation where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import faiss
import numpy as np
from pydantic import Field, JsonValue
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits

from pipeline.core.errors import IntegrityError, UserError
from pipeline.core.types import Floats, Ints
from pipeline.index import Batch, Engine, IndexSpec, _binary, _faiss
from pipeline.index._live import Live, probes

HASH_BITS, PER_BUCKET = 16, 16
"""Bits of a hash at most, and codes that a bucket holds on average as long as that suffices."""
PER_LIST = 64
"""Bytes of a list in memory beside its codes and ids."""
ROWS_PER_STEP = {"hnsw": 200, "hash": 10}
"""Codes that are compared one after another in the time that a candidate of a graph or of hash tables takes, about."""


class Spec(IndexSpec):
    """code: where bits come from; nbits None: as many as dimensions (rounded down to whole bytes), 2 d for lsh.

    storage: flat scans all codes; ivf the nprobe nearest of nlist lists; hash looks up `tables` parts of the code, each
    within nflip bits (multi-index hashing: Norouzi et al., 2012); hnsw walks a graph with m links. Settings that a
    storage does not use are left alone. thresholds: bits that are nearly the same for all of a sample are split where
    this is most even instead of at zero; without, descriptors that are never negative have one code.
    """

    suffix: ClassVar[str] = ".safetensors"
    initial: ClassVar[dict[str, JsonValue]] = {"thresholds": True}

    code: Literal["sign", "lsh", "itq"] = "sign"
    nbits: int | None = Field(default=None, ge=8, le=1 << 16)
    storage: Literal["flat", "ivf", "hash", "hnsw"] = "flat"
    nlist: int | None = Field(default=None, ge=1)
    nprobe: int = Field(default=16, ge=1)
    tables: int = Field(default=8, ge=1, le=64)
    nflip: int = Field(default=1, ge=0, le=4)
    m: int = Field(default=16, ge=4, le=64)
    ef_search: int = Field(default=128, ge=1)
    thresholds: bool = False

    @property
    def signs_alone(self) -> bool:
        """Without a projection, and without thresholds."""
        return self.code == "sign" and not self.thresholds

    def resolve(self, *, rows: int, dim: int, memory_bytes: int | None = None) -> Self:
        """Settle nbits and nlist; UserError for more bits than their source gives, or than a budget has room for."""
        bits = self.nbits or max(8, (2 * dim if self.code == "lsh" else dim) // 8 * 8)
        if bits % 8:
            raise UserError(f"binary nbits {bits}", "is not a multiple of 8", f"use {bits // 8 * 8 + 8}")
        if self.code != "lsh" and bits > max(dim, 8):
            raise UserError(f"binary nbits {bits}", f"is more than {self.code} gives of {dim} dimensions", "use lsh")
        if self.code == "itq" and dim < 8:
            raise UserError(f"binary itq over {dim} dimensions", "gives no whole byte", "use lsh")
        nlist = self.nlist or max(1, min(rows // 39, round(4 * rows**0.5), 1 << 16))
        if self.storage == "ivf" and nlist > rows:
            raise UserError(f"binary nlist {nlist}", f"exceeds the {rows} rows there are", "use fewer lists")
        return self.model_copy(update={"nbits": bits, "nlist": nlist}).within(rows, dim, memory_bytes)

    def row_bytes(self, dim: int) -> int:  # noqa: ARG002 - the code's size is a setting
        """The code, its id, and what finds it."""
        assert self.nbits is not None, "settings are resolved before sizing"
        return (
            self.nbits // 8
            + 8
            + {"flat": 0, "ivf": 8, "hash": 8 + 8 * self.tables, "hnsw": 8 * self.m + 16}[self.storage]
        )

    def loaded_bytes(self, rows: int, dim: int) -> int:
        """Codes, ids and what finds them; the projection, and the lists."""
        assert self.nbits is not None, "settings are resolved before sizing"
        projection = 4 * self.nbits * (1 + (0 if self.code == "sign" else dim))
        lists = (self.nlist or 0) * (self.nbits // 8 + PER_LIST) if self.storage == "ivf" else 0
        return rows * self.row_bytes(dim) + projection + lists

    def sample_rows(self, rows: int) -> int:
        """Points for the rotation or its thresholds, and for the centroids of lists; some to see that codes differ."""
        lists = 64 * (self.nlist or 1) if self.storage == "ivf" else 0
        points = 65_536 if self.code == "itq" else _binary.SPLIT_ROWS if self.thresholds else _binary.CHECKED
        return min(rows, max(points, lists))

    def train(
        self,
        sample: Floats,
        *,
        dim: int,
        seed: int,
        path: Path,
        engine: Engine | None = None,  # noqa: ARG002 - faiss alone
    ) -> None:
        """Draw or learn the rotation, and train the lists."""
        assert self.nbits is not None, "settings are resolved before training"
        points = np.ascontiguousarray(sample if len(sample) else np.zeros((1, dim), np.float32))
        tensors = _binary.rotation(self.code, points, dim, self.nbits, seed)
        if self.thresholds:
            tensors = _binary.split(points, tensors, self.nbits)
        codes = _binary.encode(points, tensors, self.nbits)
        _binary.expect_different("binary", codes, points)
        with threadpool_limits(1):
            index = self._empty(codes, seed)
        _write(path, index, np.zeros(0, np.int64), tensors, dim)

    def _empty(self, codes: _binary.Codes, seed: int) -> Any:
        assert self.nbits is not None, "settings are resolved before training"
        if self.storage == "hnsw":
            index = faiss.IndexBinaryHNSW(self.nbits, self.m)
            index.hnsw.efSearch = self.ef_search
            return index
        if self.storage != "ivf":
            # Hash tables are quick to fill and large to store: they are made of the codes when the file is opened.
            return faiss.IndexBinaryFlat(self.nbits)
        assert self.nlist is not None, "settings are resolved before training"
        index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(self.nbits), self.nbits, self.nlist)
        index.cp.seed, index.cp.min_points_per_centroid = seed + 1234, 1
        index.train(np.resize(codes, (max(len(codes), self.nlist), codes.shape[1])))
        return index

    def fill(
        self,
        trained: Path,
        batches: Iterable[Batch],
        path: Path,
        *,
        engine: Engine | None = None,  # noqa: ARG002 - faiss alone
    ) -> int:
        """Encode and add."""
        index, _, tensors, dim = _read(trained)
        ids, codes = [np.zeros(0, np.int64)], []
        for vectors, mine in _faiss.numbered(batches):
            ids.append(mine)
            codes.append(_binary.encode(vectors, tensors, index.d))
        _add(index, codes)
        _write(path, index, np.concatenate(ids), tensors, dim)
        return int(index.ntotal)

    def list_sizes(self, path: Path) -> Ints:
        """Return the sizes of the lists of `ivf`; the other storages have none."""
        index = _read(path)[0]
        return _faiss.list_sizes(index) if isinstance(index, faiss.IndexBinaryIVF) else super().list_sizes(path)

    def merge(self, parts: Sequence[tuple[Path, int]], path: Path) -> int:
        """Add all codes to one index: lists stay as they were trained, a graph is built anew."""
        merged: Any = None
        codes, ids = [], []
        for part, positions in parts:
            index, mine, tensors, dim = _read(part)
            codes.append(_binary.codes_of(index))
            ids.append(_faiss.shifted(mine, positions))
            merged = index
        assert merged is not None, "there is something to merge"
        merged.reset()
        _add(merged, codes)
        _write(path, merged, np.concatenate(ids), tensors, dim)
        return int(merged.ntotal)

    def load(self, path: Path, *, rows: int, dim: int) -> BinarySearcher:
        """Open for searching."""
        index, ids, tensors, there = _read(path)
        kinds = {"ivf": faiss.IndexBinaryIVF, "hnsw": faiss.IndexBinaryHNSW}
        if not isinstance(index, kinds.get(self.storage, faiss.IndexBinaryFlat)):
            raise IntegrityError(path.name, f"holds a {type(index).__name__}, not what its manifest names")
        if (index.ntotal, len(ids), there) != (rows, rows, dim):
            raise IntegrityError(path.name, f"holds {len(ids)} x {there} vectors, {rows} x {dim} were recorded")
        return BinarySearcher(self, index, ids, tensors, dim)


class BinarySearcher:
    """See pipeline.index.Searcher. Scores are cos(π · Hamming / nbits), the angle that random hyperplanes estimate."""

    def __init__(self, spec: Spec, index: Any, ids: Ints, tensors: dict[str, Floats], dim: int) -> None:
        self._spec, self._stored, self._index, self._ids = spec, index, index, ids
        self._tensors, self._bits = tensors, int(index.d)
        self.rows, self.dim = len(ids), dim
        self._live = _faiss.Remembered(lambda exclude: Live.of(self._ids, exclude))
        self._kept = _faiss.Remembered(self._live_codes)
        if spec.storage == "ivf":
            index.nprobe = min(spec.nprobe, index.nlist)
        elif spec.storage == "hash":
            part = min(self._bits, HASH_BITS, max(4, int(np.log2(max(1, self.rows) / PER_BUCKET))))
            self._index = faiss.IndexBinaryMultiHash(self._bits, min(spec.tables, self._bits // part), part)
            self._index.nflip = spec.nflip
            if self.rows:
                self._index.add(_binary.codes_of(index))

    def search(
        self,
        queries: Floats,
        k: int,
        *,
        exclude: Ints,
        effort: int | None = None,  # noqa: ARG002 - has none
    ) -> tuple[Floats, Ints]:
        """Search; where too few of the nearest that this looks at are live, compare with all live codes."""
        k = min(k, self.rows)
        codes = _binary.encode(np.ascontiguousarray(queries, np.float32), self._tensors, self._bits)
        if self._spec.storage == "ivf":
            distance, rows = self._in_lists(codes, k, exclude)
        else:
            distance, rows = self._nearest(codes, k, exclude)
        scores = np.cos(np.pi * distance.astype(np.float32) / self._bits)
        return _faiss.in_order(scores, np.where(rows < 0, -1, self._ids[rows]))

    def _nearest(self, codes: _binary.Codes, k: int, exclude: Ints) -> tuple[Ints, Ints]:
        """Return distances (q, k) and rows (q, k): the live ones of the nearest, or of all where these are too few."""
        live = self._live.of(exclude)
        wanted, enough = _faiss.overfetch(k, live=live.count, rows=self.rows), min(k, live.count)
        if self._spec.storage == "hnsw" and live.count < self.rows:
            # As far as a graph of the live rows alone would go, of which half are to be live: see hnsw.py.
            width = max(self._spec.ef_search, 2 * k)
            wanted, enough = max(wanted, int(width / live.share)), min(width // 2, live.count)
        if live.count < self.rows and ROWS_PER_STEP.get(self._spec.storage, 0) * wanted >= live.count:
            return self._all(codes, k, exclude)
        near, found = self._index.search(codes, min(wanted, self.rows))
        distance, rows, met = live.first(near, found, k)
        short = np.flatnonzero(met < enough)
        if len(short):
            distance[short], rows[short] = self._all(codes[short], k, exclude)
        return distance, rows

    def _all(self, codes: _binary.Codes, k: int, exclude: Ints) -> tuple[Ints, Ints]:
        """Compare with every live code."""
        index, rows = self._kept.of(exclude)
        distance, found = index.search(codes, k)
        return distance, np.where(found < 0, -1, rows[found]) if len(rows) else found

    def _in_lists(self, codes: _binary.Codes, k: int, exclude: Ints) -> tuple[Ints, Ints]:
        """Search nprobe lists; those with live codes, and more, where these are not all or too few: see `probes`."""
        distance: Ints = np.zeros((len(codes), k), np.int32)
        rows: Ints = np.full((len(codes), k), -1, np.int64)
        short = np.arange(len(codes))
        if not len(exclude):
            distance, rows = self._index.search(codes, k)
            short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):
            lists, sizes = self._kept.of(exclude)
            keys, coarse = probes(
                lists.quantizer, codes[short], sizes, nprobe=self._index.nprobe, least=k, rows=self.rows
            )
            parameters = faiss.SearchParametersIVF(nprobe=keys.shape[1])
            x, best, ids = np.ascontiguousarray(codes[short]), distance[short], rows[short]
            arrays = [faiss.swig_ptr(array) for array in (keys, coarse, best, ids)]
            lists.search_preassigned_c(len(x), faiss.swig_ptr(x), k, *arrays, False, parameters)
            distance[short], rows[short] = best, ids
        return distance, rows

    def _live_codes(self, exclude: Ints) -> tuple[Any, Ints]:
        """Return an index of the live codes alone; and of its lists the sizes, else the row of each code."""
        marks = self._live.of(exclude).marks
        if isinstance(self._stored, faiss.IndexBinaryIVF):
            whole = (self._stored, _faiss.list_sizes(self._stored))
            return _binary.live_lists(self._stored, marks) if len(exclude) else whole
        return _binary.live_codes(_binary.codes_of(self._stored), marks)


def _add(index: Any, codes: Sequence[_binary.Codes]) -> None:
    """Add codes at once and by one thread: the order in which a graph grows is part of what it becomes."""
    if sum(len(part) for part in codes):
        with threadpool_limits(1):
            index.add(np.concatenate(codes))


def _write(path: Path, index: Any, ids: Ints, tensors: dict[str, Floats], dim: int) -> None:
    blob = faiss.serialize_index_binary(index)
    save_file({"index": blob, "ids": ids, "dim": np.array([dim]), **tensors}, path)


def _read(path: Path) -> tuple[Any, Ints, dict[str, Floats], int]:
    tensors = _binary.tensors_of(path, ("index", "ids", "dim"))
    faiss.set_deserialization_vector_byte_limit(path.stat().st_size + _faiss.SLACK)
    try:
        index = faiss.deserialize_index_binary(tensors.pop("index"))
    except RuntimeError as error:
        line = " ".join(str(error).split())[-160:]
        raise IntegrityError(path.name, f"is no index that faiss can read ({line})") from None
    ids, dim = tensors.pop("ids"), int(tensors.pop("dim")[0])
    return index, ids, tensors, dim
