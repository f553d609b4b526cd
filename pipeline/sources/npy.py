"""Matrices of vectors as NumPy saves them, one row per image, with their names in a text file beside.

What DIR's `extract_features` writes (X.npy, rows in the order of a list), and what most embedding scripts leave behind.
Vectors are handed over as float32 (see extract/precomputed.py). No pickle is ever read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar

import numpy as np

from pipeline.core.errors import NotFoundError, ShardError
from pipeline.core.storage import Store
from pipeline.core.types import Image, Reject, Shard
from pipeline.sources import SourceSpec
from pipeline.sources._containers import Containers, ContainerSource

SUFFIX = ".npy"
_ROWS = 4096


class Spec(SourceSpec):
    """Beside X.npy its names lie in X + `names`, one per line; rows are numbered where there is no such file.

    The key is "<npy path>/<name>". A matrix is taken to have changed when its own file has.
    """

    packs: ClassVar[bool] = False

    names: str = ".txt"

    def open(self, location: str) -> NpySource:
        """Open the folder or the file; a UserError when a local one is not there."""
        return NpySource(self, Containers(location, SUFFIX))


class NpySource(ContainerSource[Spec]):
    """See pipeline.sources.Source."""

    def images(self, shard: Shard) -> Iterator[Image | Reject]:
        """Stream the rows; ShardError when the matrix, or its names, cannot be read to the end."""
        (entry,) = shard.entries
        store, uri = self._containers.store, self._containers.uri(entry)
        try:
            with store.open(entry.path) as file:
                rows, dim, dtype = _header(file)
                names = _names(store, entry.path.removesuffix(entry.path[-len(SUFFIX) :]) + self._spec.names, rows)
                for start in range(0, rows, _ROWS):
                    count = min(_ROWS, rows - start)
                    data = file.read(count * dim * dtype.itemsize)
                    if len(data) != count * dim * dtype.itemsize:
                        raise ShardError(f"truncated: {rows} rows of {dim} {dtype} values were announced")
                    matrix = np.frombuffer(data, dtype).reshape(count, dim).astype("<f4")
                    for place, row in enumerate(matrix, start=start):
                        key = f"{entry.path}/{names[place] if names else f'{place:09d}'}"
                        if self._spec.selects(key):
                            yield Image(key=key, uri=f"{uri}#row={place}", data=row.tobytes())
        except NotFoundError:
            raise ShardError("is gone since it was listed") from None


def _header(file: BinaryIO) -> tuple[int, int, np.dtype[Any]]:
    """Return rows, length and type of the matrix; the file stands at its first value."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise ShardError(f"is no sound .npy file ({' '.join(str(error).split())[:120]})") from None
    if dtype.hasobject or dtype.kind not in "fiu":
        raise ShardError(f"holds {dtype} values, not numbers")
    if len(shape) != 2 or fortran or not shape[1]:
        raise ShardError(f"is no matrix with one row per image in C order: shape {shape}")
    return shape[0], shape[1], dtype


def _names(store: Store, path: str, rows: int) -> list[str]:
    """Return the names, or [] when there is no such file; ShardError unless there is one for each row."""
    try:
        names = store.read(path).decode().split("\n")
    except NotFoundError:
        return []
    except UnicodeDecodeError:
        raise ShardError(f"has names in {path} that are not UTF-8") from None
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if len(names) != rows:
        raise ShardError(f"has {rows} rows, and {path} has {len(names)} names")
    return names
