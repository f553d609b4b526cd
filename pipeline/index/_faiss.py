"""What the faiss kinds share: guarded reading, id-mapped merging, searching with exclusions in a fixed order.

Callers have verified digests; limits on what a file may make faiss allocate are set all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import faiss
import numpy as np
import numpy.typing as npt

from pipeline.core.errors import IntegrityError
from pipeline.core.types import Floats, Ints, row_ids
from pipeline.index import Batch, Engine

T = TypeVar("T")
Marks = npt.NDArray[np.bool_]
KEPT = 4
SPARE = 16
SLACK = 64 << 20
"""Bytes that an index may need beyond the size of its file."""


def read(path: Path, *, mmap: bool = False, tables: int = 0) -> Any:
    """Read an index file; IntegrityError when faiss refuses it. tables: bytes of tables computed on reading."""
    size = path.stat().st_size
    faiss.set_deserialization_vector_byte_limit(size + SLACK + tables)
    flags = faiss.IO_FLAG_MMAP if mmap else 0
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        line = " ".join(str(error).split())[-160:]
        raise IntegrityError(path.name, f"is no index that faiss can read ({line})") from None


def write(index: Any, path: Path) -> None:
    """Write an index file."""
    faiss.write_index(index, str(path))


def numbered(batches: Iterable[Batch]) -> Iterator[tuple[Floats, Ints]]:
    """Give each batch its ids: rows of a position go on counting over its consecutive batches."""
    current, start = -1, 0
    for where, vectors in batches:
        if isinstance(where, np.ndarray):
            ids: Ints = where
        else:
            start = start if where == current else 0
            ids = row_ids(where, start + len(vectors))[start:]
            current, start = where, start + len(vectors)
        yield np.ascontiguousarray(vectors, dtype=np.float32), ids


def fill(trained: Path, batches: Iterable[Batch], path: Path, *, tables: int = 0, engine: Engine | None = None) -> int:
    """Add batches with their ids to a copy of the trained index, by faiss or by an engine; return the rows."""
    index = read(trained, tables=tables)
    add = index.add_with_ids if engine is None else engine.adder(index)
    for vectors, ids in numbered(batches):
        if len(vectors):
            add(vectors, ids)
    write(index, path)
    return int(index.ntotal)


def list_sizes(ivf: Any) -> Ints:
    """Return how many vectors each inverted list holds, (nlist,)."""
    return np.array([ivf.get_list_size(number) for number in range(ivf.nlist)], dtype=np.int64)


def shifted(ids: Ints, positions: int) -> Ints:
    """Move ids by a number of positions."""
    return ids + (np.int64(positions) << np.int64(32))


def merge_mapped(parts: Sequence[tuple[Path, int]], path: Path) -> int:
    """Merge id-mapped flat-code indexes, moving each part's ids."""
    first, move = parts[0]
    merged = read(first)
    shift_map(merged, move)
    for part, positions in parts[1:]:
        other = read(part)
        shift_map(other, positions)
        merged.merge_from(other)
    write(merged, path)
    return int(merged.ntotal)


def ids_of(index: Any) -> Ints:
    """Return the ids of an IndexIDMap (n,), which live as long as it does."""
    ids: Ints = faiss.rev_swig_ptr(index.id_map.data(), index.ntotal) if index.ntotal else np.zeros(0, np.int64)
    return ids


def shift_map(index: Any, positions: int) -> None:
    """Move the ids of an IndexIDMap in place."""
    ids = faiss.vector_to_array(index.id_map)
    faiss.copy_array_to_vector(shifted(ids, positions), index.id_map)


def expect(path: Path, index: Any, *, rows: int, dim: int, types: tuple[Any, ...]) -> None:
    """Raise IntegrityError unless an index is of one of the types, over `rows` vectors of length `dim`."""
    if not isinstance(index, types):
        raise IntegrityError(path.name, f"holds a {type(index).__name__}, not the kind its manifest names")
    if (index.ntotal, index.d) != (rows, dim):
        raise IntegrityError(path.name, f"holds {index.ntotal} x {index.d} vectors, {rows} x {dim} were recorded")


class Remembered(Generic[T]):
    """What was made of the last few arrays, told apart by identity; thread-safe.

    What many exclusions become takes longer to make than a search, and the same array comes with search after search.
    """

    def __init__(self, make: Callable[[Ints], T]) -> None:
        self._make = make
        self._kept: tuple[tuple[Ints, T], ...] = ()

    def of(self, exclude: Ints) -> T:
        """Return what is made of an array, which must not change any more."""
        for array, made in self._kept:
            if array is exclude:
                return made
        new = self._make(exclude)
        self._kept = ((exclude, new), *self._kept[: KEPT - 1])
        return new


def among(ids: Ints, exclude: Ints) -> Marks:
    """Return which ids (n,) are among the excluded, which are sorted; np.isin hashes both, which takes far longer."""
    if not len(exclude):
        return np.zeros(len(ids), bool)
    places = np.minimum(np.searchsorted(exclude, ids), len(exclude) - 1)
    return np.asarray(exclude[places] == ids)


def selector(exclude: Ints, all_ids: Callable[[], Ints], rows: int) -> Any:
    """Return a faiss selector of ids, and what it needs kept alive; None when nothing is excluded.

    It lists the ids to leave out, or those to take, whichever are fewer: what it lists it looks up in a hash table.
    """
    if not len(exclude):
        return None
    if 2 * len(exclude) > rows:
        ids = np.sort(all_ids())
        return (faiss.IDSelectorBatch(ids[~among(ids, exclude)]),)
    batch = faiss.IDSelectorBatch(exclude)
    return faiss.IDSelectorNot(batch), batch


def row_selector(exclude: Ints, ids: Ints) -> Any:
    """Return the same of the rows (n,) of an index, by one bit each, for indexes whose rows are numbered in order."""
    if not len(exclude):
        return None
    bits = np.packbits(~among(ids, exclude), bitorder="little")
    return faiss.IDSelectorBitmap(bits), bits


def first_live(
    fetch: Callable[[Ints, int], tuple[Floats, Ints]], queries: int, k: int, *, live: int, rows: int
) -> tuple[Floats, Ints]:
    """Return (scores (q, k), ids (q, k)) of the k best live ones, where an index knows no selector.

    fetch(which, n) gives the n best of some queries, by their numbers, with id -1 for those that are not live. It is
    asked for as many as hold k live ones if these lie evenly, and for twice as many of those queries that got fewer.
    """
    least = min(k, live)
    wanted = overfetch(k, live=live, rows=rows)
    scores, ids = in_order(*fetch(np.arange(queries), wanted))
    scores, ids = scores[:, :k], ids[:, :k]
    while wanted < rows:
        short = np.flatnonzero((ids >= 0).sum(axis=1) < least)
        if not len(short):
            break
        wanted = min(rows, 2 * wanted)
        more = in_order(*fetch(short, wanted))
        scores[short], ids[short] = more[0][:, :k], more[1][:, :k]
    return scores, ids


def overfetch(k: int, *, live: int, rows: int) -> int:
    """Return how many rows hold k live ones if these lie evenly among them, with something to spare."""
    if live >= rows:
        return min(k, rows)
    return min(rows, max(k, math.ceil(1.25 * k * rows / max(1, live)) + SPARE))


def in_order(scores: Floats, ids: Ints) -> tuple[Floats, Ints]:
    """Order each row by decreasing score, ties by id; missing results (-1) last with score -inf."""
    scores = np.where(ids < 0, -np.inf, scores).astype(np.float32)
    keys = np.where(ids < 0, np.iinfo(np.int64).max, ids)
    order = np.lexsort((keys, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
