"""Arrow files as Hugging Face's `save_to_disk` leaves them: columns of encoded images, or of vectors.

Read as streams, which is what that library writes, or else as files of the Arrow IPC format. Memory is that of one
record batch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, ClassVar, TypeVar

import pyarrow as pa

from pipeline.core.errors import ContentError, NotFoundError, ShardError
from pipeline.core.storage import Store
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.core.vectors import VectorBlock
from pipeline.sources import CarryingSpec
from pipeline.sources._cells import Table, names_of
from pipeline.sources._columns import Columns, columns_of, metadata_columns
from pipeline.sources._containers import Containers, ContainerSource, selected, unsound
from pipeline.sources._names import RowNames, place_of

T = TypeVar("T")

SUFFIX = ".arrow"
MAGIC = b"ARROW1"
ROWS = 4096
"""Rows of a record batch that are taken up at a time."""
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What a stream ends with."""


class Spec(CarryingSpec):
    """The same settings as those of Parquet: image_column, key_column, metadata. The key is "<file>/<name>"."""

    packs: ClassVar[bool] = False

    image_column: str = ""
    key_column: str = ""

    def open(self, location: str) -> ArrowSource:
        """Open the folder or the file; a UserError when a local one is not there."""
        return ArrowSource(self, Containers(location, SUFFIX))


class ArrowSource(ContainerSource[Spec]):
    """See pipeline.sources.Source."""

    def items(self, entry: Entry) -> Iterator[Image | Reject]:
        """Stream the rows in their order; ShardError when the file cannot be read to its end."""
        return (item for item in self._rows(entry, Table.items) if self._spec.selects(item.key))

    def holds_vectors(self, shard: Shard) -> bool:
        """Tell whether the column to read is one of vectors; reads the schema."""
        (entry,) = shard.entries
        return bool(next(self.as_listed(entry, self._is_of_vectors(entry))))

    def vectors(self, shard: Shard) -> Iterator[VectorBlock]:
        """Stream the rows in blocks; see `images`."""
        (entry,) = shard.entries
        blocks = (selected(block, self._spec) for block in self._rows(entry, Table.blocks))
        return self.as_listed(entry, (block for block in blocks if len(block)))

    def _is_of_vectors(self, entry: Entry) -> Iterator[bool]:
        with _opening(self._containers.store, entry) as file:
            columns = columns_of(file.schema, self._spec.image_column, self._spec.key_column)
            yield columns.form == "vector"

    def _rows(self, entry: Entry, taken: Callable[[Table, pa.RecordBatch, int], Iterator[T]]) -> Iterator[T]:
        """Yield what is taken of each batch of rows, of which the number of the first is given."""
        with _opening(self._containers.store, entry) as file:
            metadata = metadata_columns(file.schema, self._spec.columns)
            columns = columns_of(file.schema, self._spec.image_column, self._spec.key_column)
            table = Table(
                path=entry.path,
                uri=self._containers.uri(entry),
                columns=columns,
                names=RowNames(_all_names(file, columns)),
                metadata=self._spec.columns,
            )
            number = 0
            for batch in file.batches([*columns.read, *metadata]):
                for start in range(0, batch.num_rows, ROWS):
                    yield from taken(table, batch.slice(start, ROWS), number + start)
                number += batch.num_rows

    def pick_from(self, entry: Entry, key: str, uri: str) -> bytes | None:
        """Return one row's image, passing over the batches before it; ShardError as for `images`."""
        place = place_of(uri)
        if place is None:
            return None
        _, row, item = place
        try:
            with self._containers.store.open(entry.path) as raw:
                file = _File(raw)
                columns = columns_of(file.schema, self._spec.image_column, self._spec.key_column)
                table = Table(path=entry.path, uri=self._containers.uri(entry), columns=columns)
                number = 0
                for batch in file.batches(columns.read):
                    if row < number + batch.num_rows:
                        return table.picked(batch.slice(row - number, 1), row, item, key)
                    number += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise unsound(error, "Arrow") from None
        return None


@contextmanager
def _opening(store: Store, entry: Entry) -> Iterator[_File]:
    """Open a file for the length of a block, whose errors become those that `images` promises."""
    try:
        with store.open(entry.path) as raw:
            yield _File(raw)
    except NotFoundError:
        raise ShardError("is gone since it was listed") from None
    except (pa.ArrowException, OSError) as error:
        raise unsound(error, "Arrow") from None


class _File:
    """An Arrow file of either format; its batches can be read several times."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream = file.read(len(MAGIC)) != MAGIC
        if self._stream:
            # A stream that breaks off between two batches looks complete to Arrow.
            whole = file.seek(0, io.SEEK_END) >= len(END)
            file.seek(-len(END) if whole else 0, io.SEEK_END)
            if not whole or file.read() != END:
                raise ContentError("truncated: the stream has no end")
        self.schema: pa.Schema = self._reader(None).schema

    def _reader(self, options: pa.ipc.IpcReadOptions | None) -> Any:
        self._file.seek(0)
        return (pa.ipc.open_stream if self._stream else pa.ipc.open_file)(self._file, options=options)

    def batches(self, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the record batches in their order, with the columns wanted alone."""
        first = {name.split(".")[0] for name in wanted} | set(wanted)
        fields = [place for place, field in enumerate(self.schema) if field.name in first]
        reader = self._reader(pa.ipc.IpcReadOptions(included_fields=fields))
        if not self._stream:
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
            return
        for batch in reader:
            batch.validate()
            yield batch


def _all_names(file: _File, columns: Columns) -> Iterator[str]:
    """Yield the names of all rows; nothing where rows are numbered. A stream has no map: its batches are read whole."""
    if not columns.names:
        return
    number = 0
    for batch in file.batches([columns.key or columns.image]):
        yield from names_of(batch, columns, number)
        number += batch.num_rows
