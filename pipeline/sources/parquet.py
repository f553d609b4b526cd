"""Parquet files that hold encoded images, in the layout of Hugging Face datasets or as a plain column of bytes; or
vectors, as a column of lists of numbers, which are handed over as float32 (see extract/precomputed.py).

Streamed in small batches: memory is that of one row group's pages, whatever the size of the file. Plain Arrow storage
only: extension types are read as what they store, never interpreted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import NotFoundError, ShardError, StoreError
from pipeline.core.storage import Store
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.core.vectors import VectorBlock
from pipeline.sources import CarryingSpec
from pipeline.sources._cells import Table, names_of
from pipeline.sources._columns import Columns, columns_of, metadata_columns
from pipeline.sources._containers import Containers, ContainerSource, selected, unsound
from pipeline.sources._names import RowNames, place_of

T = TypeVar("T")

SUFFIX = ".parquet"
BATCH_ROWS, BATCH_BYTES = 4096, 16 << 20
"""Rows of a batch at most, and bytes that they take as the footer has it."""
LARGE_GROUP = 256 << 20
"""Bytes of a row group from which on it is named: its pages can be as large as itself."""
NAME_ROWS = 1 << 14
READ_BYTES = 8 << 20
"""Bytes of a column chunk that are read at a time."""


class Spec(CarryingSpec):
    """image_column "" finds the column, of images or else of vectors; key_column names images, else the struct's path,
    else the row number. A list of images gives one image per item, "<row>#<item>".

    Every row is wanted unless `match` says otherwise. The key is "<parquet path>/<name>"; names that a file repeats get
    the row number, "<name>#<row>". Metadata is other columns.
    """

    packs: ClassVar[bool] = False

    image_column: str = ""
    key_column: str = ""

    def open(self, location: str) -> ParquetSource:
        """Open the folder or the file; a UserError when a local one is not there."""
        return ParquetSource(self, Containers(location, SUFFIX))

    def notes(self, location: str, entries: Sequence[Entry]) -> list[str]:
        """Name files with a row group that takes a worker much memory; reads footers. See pipeline.sources."""
        store = Containers(location, SUFFIX).store
        found = []
        for entry in entries:
            # What cannot be read now is for the worker to report.
            with suppress(pa.ArrowException, OSError, StoreError), store.open(entry.path) as file:
                found.append(large_group(_opened(file).metadata, entry.path))
        return [line for line in found if line]


class ParquetSource(ContainerSource[Spec]):
    """See pipeline.sources.Source."""

    def items(self, entry: Entry) -> Iterator[Image | Reject]:
        """Stream the rows in their order; ShardError when the file cannot be read to its end."""
        return (item for item in self._rows(entry, Table.items) if self._spec.selects(item.key))

    def holds_vectors(self, shard: Shard) -> bool:
        """Tell whether the column to read is one of vectors; reads the footer."""
        (entry,) = shard.entries
        return bool(next(self.as_listed(entry, self._is_of_vectors(entry))))

    def vectors(self, shard: Shard) -> Iterator[VectorBlock]:
        """Stream the rows in blocks; see `images`."""
        (entry,) = shard.entries
        blocks = (selected(block, self._spec) for block in self._rows(entry, Table.blocks))
        return self.as_listed(entry, (block for block in blocks if len(block)))

    def _is_of_vectors(self, entry: Entry) -> Iterator[bool]:
        with _opening(self._containers.store, entry) as file:
            columns = columns_of(file.schema_arrow, self._spec.image_column, self._spec.key_column)
            yield columns.form == "vector"

    def pick_from(self, entry: Entry, key: str, uri: str) -> bytes | None:
        """Return one row's image, reading only its row group; ShardError when the file cannot be read any more."""
        try:
            with self._containers.store.open(entry.path) as raw:
                return self._picked(_opened(raw), entry, key, uri)
        except (pa.ArrowException, OSError) as error:
            raise unsound(error, "Parquet") from None

    def _picked(self, file: pq.ParquetFile, entry: Entry, key: str, uri: str) -> bytes | None:
        place = place_of(uri)
        if place is None or place[1] >= file.metadata.num_rows:
            return None
        _, row, item = place
        ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        group = int(np.searchsorted(ends, row, side="right"))
        number = int(ends[group]) - file.metadata.row_group(group).num_rows
        columns = columns_of(file.schema_arrow, self._spec.image_column, self._spec.key_column)
        table = Table(path=entry.path, uri=self._containers.uri(entry), columns=columns)
        rows = batch_rows(file.metadata, columns.read, [group])
        for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=columns.read):
            if row < number + batch.num_rows:
                return table.picked(batch.slice(row - number, 1), row, item, key)
            number += batch.num_rows
        return None

    def _rows(self, entry: Entry, taken: Callable[[Table, pa.RecordBatch, int], Iterator[T]]) -> Iterator[T]:
        """Yield what is taken of each batch of rows, of which the number of the first is given."""
        with _opening(self._containers.store, entry) as file:
            columns = columns_of(file.schema_arrow, self._spec.image_column, self._spec.key_column)
            wanted = [*columns.read, *metadata_columns(file.schema_arrow, self._spec.columns)]
            table = Table(
                path=entry.path,
                uri=self._containers.uri(entry),
                columns=columns,
                names=RowNames(_all_names(file, columns)),
                metadata=self._spec.columns,
            )
            number = 0
            for group in range(file.num_row_groups):
                # One row group after the other: a batch across two would hold the pages of both.
                rows = batch_rows(file.metadata, columns.read, [group])
                for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=wanted):
                    yield from taken(table, batch, number)
                    number += batch.num_rows


@contextmanager
def _opening(store: Store, entry: Entry) -> Iterator[pq.ParquetFile]:
    """Open a file for the length of a block, whose errors become those that `images` promises."""
    try:
        with store.open(entry.path) as file:
            yield _opened(file)
    except NotFoundError:
        raise ShardError("is gone since it was listed") from None
    except (pa.ArrowException, OSError) as error:
        raise unsound(error, "Parquet") from None


def large_group(metadata: pq.FileMetaData, path: str, limit: int = LARGE_GROUP) -> str:
    """Return a line on the largest row group of a file if it has more bytes than `limit`; "" otherwise."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = max(groups, key=lambda group: int(group.total_byte_size), default=None)
    if largest is None or largest.total_byte_size <= limit:
        return ""
    rows = max(1, largest.num_rows * (limit // 4) // largest.total_byte_size)
    return (
        f"{path} has a row group of {largest.num_rows} rows and {largest.total_byte_size / 1e6:,.0f} MB, of which a "
        f"worker may need twice as much memory; write it with row_group_size={rows}"
    )


def batch_rows(metadata: pq.FileMetaData, columns: Sequence[str], groups: Sequence[int]) -> int:
    """Return how many rows of some row groups to decode at a time, by the size of these columns in the footer."""
    size = rows = 0
    for group in map(metadata.row_group, groups):
        rows += group.num_rows
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.path_in_schema.split(".")[0] in columns or chunk.path_in_schema in columns:
                size += max(chunk.total_uncompressed_size, chunk.total_compressed_size)
    return max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(1, size)))


def _opened(file: BinaryIO) -> pq.ParquetFile:
    # With pre_buffer every row group that has been read stays in memory until the file is closed.
    return pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False, buffer_size=READ_BYTES)


def _all_names(file: pq.ParquetFile, columns: Columns) -> Iterator[str]:
    """Yield the names of all rows, reading no images; nothing where rows are numbered."""
    if not columns.names:
        return
    number = 0
    for batch in file.iter_batches(batch_size=NAME_ROWS, columns=columns.names):
        yield from names_of(batch, columns, number)
        number += batch.num_rows
