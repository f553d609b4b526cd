"""Exports: what a snapshot holds, in the forms that others serve from. One file per form; nothing is published here.

Rows are the live images in the order of the snapshot: descriptor file after descriptor file, row after row.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import UserError
from pipeline.core.types import Floats, Ints
from pipeline.search.descriptors import Named
from pipeline.search.engine import SearchIndex
from pipeline.search.merge import Candidates

CHUNK, CHUNK_BYTES = 1 << 15, 256 << 20
"""Rows, and bytes of vectors, that are held at once."""
NAMES = "names.parquet"


class Export(Protocol):
    """What a form's module has: `write`, which fills an empty folder with the files it names."""

    def write(self, index: SearchIndex, folder: Path, kind: str) -> Iterable[str]:
        """Write, and name each file when it is complete: whoever takes the name may remove the file.

        kind: the index kind, where the form holds an index. UserError for what the form cannot hold, before the first
        name.
        """
        ...


def count(index: SearchIndex) -> int:
    """Return the number of rows; UserError for none, and for local descriptors, which have no row each."""
    _check(index)
    found = len(index.live())
    if not found:
        raise UserError("export", "would be empty: the snapshot holds no images", "index images first")
    return found


def _check(index: SearchIndex) -> None:
    if index.is_local:
        raise UserError("export", "is of global descriptors, this snapshot has local ones", "encode them")


def chunk_rows(dim: int) -> int:
    """Return how many rows of that many dimensions are held at once."""
    return max(1, min(CHUNK, CHUNK_BYTES // (4 * max(dim, 1))))


def _chunks(index: SearchIndex, size: int) -> Iterator[tuple[Ints, Candidates]]:
    live = index.live()
    for start in range(0, len(live), size):
        part = live.after(start).first(size)
        yield np.arange(start, start + len(part), dtype=np.int64), part


def rows(index: SearchIndex) -> Iterator[tuple[Ints, Floats]]:
    """Yield row numbers and stored vectors (≤ CHUNK, d); UserError for local descriptors, which have no row each."""
    _check(index)
    for numbers, part in _chunks(index, chunk_rows(index.dim)):
        yield numbers, index.stored.vectors(part.file, part.row)


def names(index: SearchIndex) -> Iterator[tuple[Ints, list[Named]]]:
    """Yield row numbers and what the images are called, ≤ CHUNK at a time."""
    for numbers, part in _chunks(index, CHUNK):
        yield numbers, index.stored.names(part.file, part.row)


def named_rows(index: SearchIndex, size: int = CHUNK) -> Iterator[tuple[Ints, list[Named], Floats]]:
    """Yield row numbers, what the images are called, and stored vectors (≤ size, d)."""
    _check(index)
    for numbers, part in _chunks(index, min(size, chunk_rows(index.dim))):
        yield numbers, index.stored.names(part.file, part.row), index.stored.vectors(part.file, part.row)


def write_names(index: SearchIndex, path: Path, name: Callable[[str], str] | None = None) -> None:
    """Write a Parquet table of row number, key and URI, in the order of `rows`.

    name: from a key to what the form calls the image, where that is not the key; a column of its own.
    """
    fields = [("id", pa.int64()), ("key", pa.string()), ("uri", pa.string())]
    schema = pa.schema([*fields, *([("name", pa.string())] if name is not None else [])])
    with pq.ParquetWriter(path, schema) as writer:
        for numbers, named in names(index):
            columns: list[object] = [numbers, [image.key for image in named], [image.uri for image in named]]
            if name is not None:
                columns.append([name(image.key) for image in named])
            writer.write_table(pa.table(columns, schema=schema))


def write_index(index: SearchIndex, folder: Path, kind: str, stem: str) -> str:
    """Fill one index of a kind anew with all rows, its ids the row numbers; return its name: stem and suffix.

    The trained quantisers are the snapshot's; UserError where it has no index shard of the kind.
    """
    spec = index.spec(kind)
    trained = index.trained(spec)
    if trained is None:
        raise UserError(f"--index {spec.kind}", "has no index shard to take the trained index from", "index images")
    name = f"{stem}{spec.suffix}"
    # Filling takes a copy: the file that it is given is the catalogue's.
    copy = folder / f"trained{spec.suffix}"
    shutil.copyfile(trained, copy)
    spec.fill(copy, rows(index), folder / name)
    copy.unlink()
    return name
