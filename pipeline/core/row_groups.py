"""RowGroupWriter: a Parquet file written one row group after the other, from tables of any length.

The bytes are those of a single write of all rows: where the tables were cut leaves no trace. What is held is less than
a row group and the table that was added last.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq


class RowGroupWriter:
    """A context manager; so many rows in each row group but the last. settings: those of pyarrow's ParquetWriter."""

    def __init__(self, path: Path, schema: pa.Schema, *, row_group_size: int, **settings: Any) -> None:
        self._file = pq.ParquetWriter(path, schema, **settings)
        self._rows = row_group_size
        self._rest: pa.Table = schema.empty_table()
        self.written = 0
        """Rows that are in the file so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # A file without rows has one empty row group.
            if error is None and (self._rest.num_rows or not self.written):
                self._write(self._rest)
        finally:
            self._file.close()

    def add(self, table: pa.Table) -> None:
        """Take in some rows, and write the row groups that are full."""
        table = pa.concat_tables([self._rest, table]) if self._rest.num_rows else table
        full = table.num_rows - table.num_rows % self._rows
        if full:
            self._write(table.slice(0, full))
        # Combined, so that a row group is one piece and a large table is not kept for its last rows.
        self._rest = table.slice(full).combine_chunks()

    def _write(self, table: pa.Table) -> None:
        self._file.write_table(table.combine_chunks(), row_group_size=self._rows)
        self.written += table.num_rows
