"""Filters: which images satisfy a condition, found by reading its columns only, and kept for the next query.

Many matches are left to the index, which is told what to hide; few are compared one by one, exactly. Vectors and
columns come from stored descriptors; what a condition may say is in where.py.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
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
from pipeline.search.where import Condition, condition

FEW = 10_000
"""So many images are compared one by one: about what an index looks at, and their vectors can be kept."""
KEEP = 256 << 20
OVERHEAD = 1024
"""Bytes of an entry beside its arrays."""
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
    """The places (m,) and vectors (m, d) of few images."""

    places: Candidates
    vectors: Floats


class Filters:
    """The conditions that were asked of a snapshot; thread-safe.

    names: ids of the descriptor files, in the order of the snapshot. dead: rows that are no longer part of it. keep:
    bytes of the rows that conditions leave out, and as many of vectors, that are kept for the next query.
    """

    def __init__(
        self, stored: StoredDescriptors, names: pa.Array, dead: Rows, metadata: Mapping[str, Kind], keep: int = KEEP
    ) -> None:
        self._stored, self._names, self._dead, self._metadata = stored, names, dead, metadata
        self._matches = _Recent[Matches](keep, _bytes)
        self._compared = _Recent[_Compared](keep, lambda kept: OVERHEAD + kept.vectors.nbytes)

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
        kept = self._compared.get(matches.where, lambda: self._vectors(matches))
        places = kept.places
        scores = [(kept.vectors @ query).astype(np.float32) for query in queries]
        return [ranked([Candidates(score=one, file=places.file, row=places.row)]).first(k) for one in scores]

    def _vectors(self, matches: Matches) -> _Compared:
        files: list[Ints] = [np.zeros(0, np.int64)]
        rows: list[Ints] = [np.zeros(0, np.int64)]
        for number, name in enumerate(self._names.to_pylist()):
            live = np.ones(self._stored.counts[number], bool)
            for gone in (matches.hidden.get(name), self._dead.get(name)):
                if gone is not None:
                    live[gone] = False
            rows.append(np.flatnonzero(live).astype(np.int64))
            files.append(np.full(len(rows[-1]), number, np.int64))
        file, row = np.concatenate(files), np.concatenate(rows)
        places = Candidates(score=np.zeros(len(file), np.float32), file=file, row=row)
        return _Compared(places=places, vectors=self._stored.vectors(file, row))


def _bytes(kept: Matches) -> int:
    return OVERHEAD + 4 * len(kept.where) + sum(128 + rows.nbytes for rows in kept.hidden.values())


class _Recent(Generic[T]):
    """The values made last, by name, within a bound on their bytes; what is larger than that is kept by itself."""

    def __init__(self, limit: int, weigh: Callable[[T], int]) -> None:
        self._limit, self._weigh = limit, weigh
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._making: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, name: str, make: Callable[[], T]) -> T:
        """Return the value of a name, made by one thread while others that want it wait."""
        with self._lock:
            making = self._making.setdefault(name, threading.Lock())
        with making:
            with self._lock:
                if name in self._kept:
                    self._kept.move_to_end(name)
                    return self._kept[name]
            try:
                made = make()
            finally:
                with self._lock:
                    self._making.pop(name, None)
            with self._lock:
                self._kept[name] = made
                while len(self._kept) > 1 and sum(map(self._weigh, self._kept.values())) > self._limit:
                    self._kept.popitem(last=False)
            return made
