"""Filters: which images satisfy a condition, found by reading its columns only, and kept for the next query.

Many matches are left to the index, which is told what to hide; few are compared one by one, exactly. Vectors and
columns come from stored descriptors; what a condition may say is in where.py.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.metadata import Kind
from pipeline.core.types import Floats, Ints
from pipeline.publish.manifests import Rows
from pipeline.search.descriptors import StoredDescriptors
from pipeline.search.merge import Candidates, ranked
from pipeline.search.parts import NOTHING
from pipeline.search.where import Condition, condition

FEW = 10_000
"""So many images are compared one by one: about what an index looks at, and their vectors can be kept."""
VECTORS = 64 << 20
"""Bytes of the vectors, in float32, that are read at once to compare one by one; those of more are not kept."""
KEEP = 512 << 20
"""Bytes that the filters of one search index keep in all: half rows that are left out, half vectors.

One condition that leaves out more than that half (33 million images) is kept by itself. What index shards make of the
last conditions is bounded in parts.py.
"""
ENTRIES = 1000
"""Conditions that are kept of each half, however little they weigh."""
OVERHEAD = 1024
"""Bytes of an entry beside its name and its arrays."""
_FILE = 256
"""Bytes of a file's array of rows beside its name and the rows."""
_ROW = "image_row"
"""A name that no metadata has."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Matches:
    """What a condition takes of a snapshot: `count` live images.

    hidden: rows of the images that it leaves out, by file; 8 bytes for each of them.
    """

    where: str
    hidden: Rows
    count: int


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """The places (m,) and vectors (m, d) of few images; the scores of the places are zero."""

    places: Candidates
    vectors: Floats

    @property
    def nbytes(self) -> int:
        places = self.places
        return self.vectors.nbytes + places.score.nbytes + places.file.nbytes + places.row.nbytes


class Filters:
    """The conditions that were asked of a snapshot; thread-safe.

    names: ids of the descriptor files, in the order of the snapshot. dead: rows that are no longer part of it. keep:
    bytes that are kept for the next query, see KEEP.
    """

    def __init__(
        self, stored: StoredDescriptors, names: pa.Array, dead: Rows, metadata: Mapping[str, Kind], keep: int = KEEP
    ) -> None:
        self._stored, self._names, self._dead, self._metadata = stored, names, dead, metadata
        self._matches = _Recent[Matches](keep // 2, _bytes)
        self._compared = _Recent[_Compared](keep // 2, lambda kept: kept.nbytes)

    @property
    def held(self) -> int:
        """Bytes that are kept now."""
        return self._matches.held + self._compared.held

    def few(self, depth: int) -> int:
        """Return how many images are better compared one by one than left to an index that looks at `depth`."""
        return min(max(FEW, 10 * depth), self._at_once)

    @property
    def _at_once(self) -> int:
        """How many images have vectors that are read at once."""
        return max(1, VECTORS // (4 * max(1, self._stored.dim)))

    def matches(self, where: str) -> Matches:
        """Return what a condition takes; UserError when it is none, see where.py."""
        return self._matches.get(where, lambda: self._read(where))

    def _read(self, where: str) -> Matches:
        asked = condition(where, self._metadata)
        hidden: Rows = {}
        count = 0
        for number, name in enumerate(self._names.to_pylist()):
            taken = self._taken(number, asked)
            out = np.flatnonzero(~taken).astype(np.int64)
            if len(out):
                hidden[name] = out
            taken[self._dead.get(name, out[:0])] = False
            count += int(taken.sum())
        return Matches(where=where, hidden=hidden, count=count)

    def _taken(self, number: int, asked: Condition) -> npt.NDArray[np.bool_]:
        """Return which images (n,) of a file satisfy a condition; null satisfies nothing."""
        total = self._stored.counts[number]
        rows = pa.table({_ROW: np.arange(total, dtype=np.int64)})
        table = self._stored.columns(number, asked.columns) if asked.columns else rows.select([])
        for name in table.column_names:
            rows = rows.append_column(name, table[name])
        taken = np.zeros(total, bool)
        taken[rows.filter(asked.expression)[_ROW].to_numpy()] = True
        return taken

    def exact(self, matches: Matches, queries: Floats, k: int) -> list[Candidates]:
        """Return the k best of each query (q, d) among few matches, by inner products with their stored vectors."""
        best = [NOTHING] * len(queries)
        for some in self._chunks(matches):
            for number, query in enumerate(queries):
                score = (some.vectors @ query).astype(np.float32)
                found = Candidates(score=score, file=some.places.file, row=some.places.row)
                best[number] = ranked([best[number], found]).first(k)
        return best

    def _chunks(self, matches: Matches) -> Iterator[_Compared]:
        """Yield what matches: whole, and kept, where it may be read at once, else part by part."""
        step = self._at_once
        if matches.count <= step:
            yield self._compared.get(matches.where, lambda: self._vectors(*self._places(matches)))
            return
        file, row = self._places(matches)
        for start in range(0, len(file), step):
            yield self._vectors(file[start : start + step], row[start : start + step])

    def _places(self, matches: Matches) -> tuple[Ints, Ints]:
        """Return file (m,) and row (m,) of the images that match."""
        files: list[Ints] = [np.zeros(0, np.int64)]
        rows: list[Ints] = [np.zeros(0, np.int64)]
        for number, name in enumerate(self._names.to_pylist()):
            live = np.ones(self._stored.counts[number], bool)
            for gone in (matches.hidden.get(name), self._dead.get(name)):
                if gone is not None:
                    live[gone] = False
            rows.append(np.flatnonzero(live).astype(np.int64))
            files.append(np.full(len(rows[-1]), number, np.int64))
        return np.concatenate(files), np.concatenate(rows)

    def _vectors(self, file: Ints, row: Ints) -> _Compared:
        places = Candidates(score=np.zeros(len(file), np.float32), file=file, row=row)
        return _Compared(places=places, vectors=self._stored.vectors(file, row))


def _bytes(kept: Matches) -> int:
    return sum(_FILE + len(name) + rows.nbytes for name, rows in kept.hidden.items())


class _Recent(Generic[T]):
    """The values made last, by name, within bounds on their bytes and number; one larger than that is kept by itself.

    weigh: bytes of a value; those of its name are added.
    """

    def __init__(self, limit: int, weigh: Callable[[T], int]) -> None:
        self._limit, self._weigh = limit, weigh
        self._kept: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._making: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self.held = 0

    def get(self, name: str, make: Callable[[], T]) -> T:
        """Return the value of a name, made by one thread while others that want it wait."""
        with self._lock:
            if name in self._kept:
                return self._found(name)
            making = self._making.setdefault(name, threading.Lock())
        try:
            with making:
                with self._lock:
                    if name in self._kept:
                        return self._found(name)
                made = make()
                with self._lock:
                    self._keep(name, made)
                return made
        finally:
            with self._lock:
                # By now it may be the lock of a later making, which is not ours to take away.
                if self._making.get(name) is making:
                    del self._making[name]

    def _found(self, name: str) -> T:
        self._kept.move_to_end(name)
        return self._kept[name][0]

    def _keep(self, name: str, made: T) -> None:
        weight = OVERHEAD + 4 * len(name) + self._weigh(made)
        _, before = self._kept.pop(name, (made, 0))
        self._kept[name] = made, weight
        self.held += weight - before
        while len(self._kept) > 1 and (self.held > self._limit or len(self._kept) > ENTRIES):
            _, (_, gone) = self._kept.popitem(last=False)
            self.held -= gone
