"""Exports: what a snapshot holds, in the forms that others serve from. One file per form; nothing is published here.

Rows are the live images in the order of the snapshot: descriptor file after descriptor file, row after row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import UserError
from pipeline.core.types import Floats, Ints
from pipeline.search.engine import SearchIndex

CHUNK = 1 << 15


class Export(Protocol):
    """What a form's module has: `write`, which fills an empty folder and returns the files it made."""

    def write(self, index: SearchIndex, folder: Path, kind: str) -> list[str]:
        """Write; kind: the index kind, where the form holds an index. UserError for what the form cannot hold."""
        ...


def rows(index: SearchIndex) -> Iterator[tuple[Ints, Floats]]:
    """Yield row numbers and stored vectors (≤ CHUNK, d); UserError for local descriptors, which have no row each."""
    if index.is_local:
        raise UserError("export", "is of global descriptors, this snapshot has local ones", "encode them")
    live = index.live()
    for start in range(0, len(live), CHUNK):
        part = slice(start, start + CHUNK)
        vectors = index.stored.vectors(live.file[part], live.row[part])
        yield np.arange(start, start + len(vectors), dtype=np.int64), vectors


def write_names(index: SearchIndex, path: Path) -> None:
    """Write a Parquet table of row number, key and URI, in the order of `rows`."""
    schema = pa.schema([("id", pa.int64()), ("key", pa.string()), ("uri", pa.string())])
    live = index.live()
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(live), CHUNK):
            part = slice(start, start + CHUNK)
            named = index.stored.names(live.file[part], live.row[part])
            columns = [
                np.arange(start, start + len(named)),
                [name.key for name in named],
                [name.uri for name in named],
            ]
            writer.write_table(pa.table(columns, schema=schema))
