"""Matrices of vectors as NumPy saves them, one row per image, with their names in a text file beside.

What DIR's `extract_features` writes (X.npy, rows in the order of a list), and what most embedding scripts leave behind.
Vectors are handed over as float32 (see extract/precomputed.py). No pickle is ever read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar

import numpy as np

from pipeline.core.errors import ContentError, NotFoundError, ShardError, UserError
from pipeline.core.storage import Store
from pipeline.core.text import decoded
from pipeline.core.types import Entry, Floats, Image, Reject, Shard
from pipeline.core.vectors import VALUE, VectorBlock
from pipeline.sources import SourceSpec
from pipeline.sources._containers import Containers, ContainerSource, selected
from pipeline.sources._names import RowNames, is_key, place_of, uri_of

SUFFIX = ".npy"
ROWS, BLOCK_BYTES = 4096, 16 << 20
"""Rows that are read at a time at most, and bytes."""


class Spec(SourceSpec):
    """Beside X.npy its names lie in X + `names`, one per line; rows are numbered where there is no such file.

    The key is "<npy path>/<name>"; names that a file repeats get the row number, "<name>#<row>". A matrix is taken to
    have changed when its own file has.
    """

    packs: ClassVar[bool] = False

    names: str = ".txt"

    def open(self, location: str) -> NpySource:
        """Open the folder or the file; a UserError when a local one is not there."""
        return NpySource(self, Containers(location, SUFFIX))


class NpySource(ContainerSource[Spec]):
    """See pipeline.sources.Source."""

    def items(self, entry: Entry) -> Iterator[Image | Reject]:
        """Stream the rows; ShardError when the matrix, or its names, cannot be read to the end."""
        for block in self._blocks(entry):
            dim = block.offsets[1]
            for row, vector in enumerate(block.values.reshape(-1, dim)):
                yield Image(key=block.keys[row], uri=block.uris[row], data=vector.tobytes())

    def holds_vectors(self, shard: Shard) -> bool:  # noqa: ARG002 - nothing else is in these files
        """Yes."""
        return True

    def vectors(self, shard: Shard) -> Iterator[VectorBlock]:
        """Stream the rows in blocks; see `images`."""
        (entry,) = shard.entries
        return self.as_listed(entry, self._blocks(entry))

    def _blocks(self, entry: Entry) -> Iterator[VectorBlock]:
        store, uri = self._containers.store, self._containers.uri(entry)
        try:
            with store.open(entry.path) as file:
                rows, dim, dtype = _header(file)
                lines = _Lines.of(store, entry.path.removesuffix(entry.path[-len(SUFFIX) :]) + self._spec.names, rows)
                names = RowNames(lines)
                for start, matrix in _matrices(file, rows, dim, dtype):
                    places = range(start, start + len(matrix))
                    keys = [
                        f"{entry.path}/{names.unique(lines[row], row) if len(lines) else f'{row:09d}'}"
                        for row in places
                    ]
                    block = VectorBlock.of_matrix(keys, [uri_of(uri, row) for row in places], matrix)
                    block = selected(block, self._spec)
                    if len(block):
                        yield block
        except NotFoundError:
            raise ShardError("is gone since it was listed") from None

    def pick_from(self, entry: Entry, key: str, uri: str) -> bytes | None:
        """Return one row's vector, reading that row alone; None when the row has another name, or there is none."""
        place = place_of(uri)
        store = self._containers.store
        with store.open(entry.path) as file:
            rows, dim, dtype = _header(file)
            if place is None or place[1] >= rows:
                return None
            row = place[1]
            lines = _Lines.of(store, entry.path.removesuffix(entry.path[-len(SUFFIX) :]) + self._spec.names, rows)
            name = lines[row] if len(lines) else f"{row:09d}"
            if not is_key(key, f"{entry.path}/{name}", row, place[2]):
                return None
            file.seek(row * dim * dtype.itemsize, io.SEEK_CUR)
            return next(_matrices(file, 1, dim, dtype))[1].tobytes()


def _matrices(file: BinaryIO, rows: int, dim: int, dtype: np.dtype[Any]) -> Iterator[tuple[int, Floats]]:
    """Yield rows from where the file stands, as little-endian float32, with the number of the first: a block each."""
    step = max(1, min(ROWS, BLOCK_BYTES // (dim * dtype.itemsize)))
    for start in range(0, rows, step):
        count = min(step, rows - start)
        data = file.read(count * dim * dtype.itemsize)
        if len(data) != count * dim * dtype.itemsize:
            raise ContentError(f"truncated: {rows} rows of {dim} {dtype} values were announced")
        yield start, np.frombuffer(data, dtype).reshape(count, dim).astype(VALUE)


def _header(file: BinaryIO) -> tuple[int, int, np.dtype[Any]]:
    """Return rows, length and type of the matrix; the file stands at its first value."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise ContentError(f"is no sound .npy file ({' '.join(str(error).split())[:120]})") from None
    if dtype.hasobject or dtype.kind not in "fiu":
        raise ContentError(f"holds {dtype} values, not numbers")
    if len(shape) != 2 or fortran or not shape[1]:
        raise ContentError(f"is no matrix with one row per image in C order: shape {shape}")
    return shape[0], shape[1], dtype


class _Lines:
    """The lines of a text file of names, without an object for each: its bytes, and where lines begin."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
        self._starts = np.concatenate([[0], ends + 1, [len(data) + 1]]).astype(np.int64)

    @classmethod
    def of(cls, store: Store, path: str, rows: int) -> _Lines:
        """Return the names in a file, or none when there is no such file; ShardError unless there is one per row."""
        try:
            data = store.read(path)
        except NotFoundError:
            return cls.none()
        try:
            text = decoded(data, path).rstrip()
        except UserError as error:
            raise ShardError(f"has names in {path}, which {error.reason}; {error.remedy}") from None
        lines = cls(text.encode()) if text else cls.none()
        if len(lines) != rows:
            raise ShardError(f"has {rows} rows, and {path} has {len(lines)} names")
        return lines

    @classmethod
    def none(cls) -> _Lines:
        """Return no lines."""
        lines = cls(b"")
        lines._starts = np.zeros(1, np.int64)
        return lines

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: int) -> str:
        return self._data[int(self._starts[place]) : int(self._starts[place + 1]) - 1].decode().strip()

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))
