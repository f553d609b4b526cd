"""Rows of Arrow tables as items: their names, their images or vectors one at a time, and their metadata.

A cell is copied when it is handed on, never a whole batch; names that are not UTF-8 are shown with escapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.metadata import Column, Value, cast_value
from pipeline.core.types import Floats, Image, Reject
from pipeline.core.vectors import VALUE, VectorBlock
from pipeline.sources import MAX_IMAGE_BYTES
from pipeline.sources._columns import Columns
from pipeline.sources._files import too_large
from pipeline.sources._names import RowNames, is_key, uri_of


@dataclass(frozen=True, kw_only=True)
class Table:
    """What the rows of one file are read by: its path and URI, its columns, which names it repeats."""

    path: str
    uri: str
    columns: Columns
    names: RowNames = field(default_factory=RowNames)
    metadata: Sequence[Column] = ()

    def items(self, batch: pa.RecordBatch, start: int) -> Iterator[Image | Reject]:
        """Yield what the rows of a batch hold, the first of which is row `start` of the file."""
        column = stored(batch.column(batch.schema.get_field_index(self.columns.image)))
        names = names_of(batch, self.columns, start)
        known = _metadata(batch, self.metadata)
        for place, (cells, name, about) in enumerate(zip(_rows(column, self.columns), names, known, strict=True)):
            row = start + place
            stem = f"{self.path}/{self.names.unique(name, row)}"
            if cells is None:
                yield Reject(key=stem, uri=uri_of(self.uri, row), reason="is null", bytes=0)
                continue
            for item, cell in enumerate(cells):
                key = f"{stem}#{item}" if self.columns.listed else stem
                where = uri_of(self.uri, row, item if self.columns.listed else None)
                yield _item(cell, key, where, about)

    def blocks(self, batch: pa.RecordBatch, start: int) -> Iterator[VectorBlock]:
        """Yield the vectors of a batch as one block of columns; `items` yields the same one at a time."""
        column = stored(batch.column(batch.schema.get_field_index(self.columns.image)))
        names, rows = names_of(batch, self.columns, start), range(start, start + batch.num_rows)
        yield VectorBlock(
            keys=[f"{self.path}/{self.names.unique(name, row)}" for name, row in zip(names, rows, strict=True)],
            uris=[uri_of(self.uri, row) for row in rows],
            values=_values(column),
            offsets=_offsets(column),
            there=column.is_valid().to_numpy(zero_copy_only=False),
            metadata=_metadata(batch, self.metadata) if self.metadata else (),
        )

    def picked(self, row: pa.RecordBatch, number: int, item: int | None, key: str) -> bytes | None:
        """Return the image of a row, a batch of one, if that can be its key; None otherwise."""
        (name,) = names_of(row, self.columns, number)
        if (item is not None) != self.columns.listed or not is_key(key, f"{self.path}/{name}", number, item):
            return None
        for found in self.items(row, number):
            if isinstance(found, Image) and found.uri == uri_of(self.uri, number, item):
                return found.data
        return None


def names_of(batch: pa.RecordBatch, columns: Columns, start: int) -> list[str]:
    """Return the names of a batch's rows: by the key column, else the path beside the bytes, else the row number."""
    numbers = [f"{number:09d}" for number in range(start, start + batch.num_rows)]
    if columns.key:
        column = stored(batch.column(batch.schema.get_field_index(columns.key)))
        return [number if name is None else name for name, number in zip(_texts(column), numbers, strict=True)]
    if not columns.path or columns.listed:
        return numbers
    paths = _texts(_field(stored(batch.column(batch.schema.get_field_index(columns.image))), columns.path))
    return [path or number for path, number in zip(paths, numbers, strict=True)]


def stored(column: pa.Array) -> pa.Array:
    """Return what an array stores: extension types by their storage, dictionaries by their values."""
    while isinstance(column, pa.ExtensionArray | pa.DictionaryArray):
        column = column.storage if isinstance(column, pa.ExtensionArray) else column.dictionary.take(column.indices)
    return column


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One image: its bytes, or none; path: what the file calls it."""

    data: pa.Buffer | bytes | None
    path: str | None = None


def _item(cell: _Cell, key: str, where: str, metadata: Mapping[str, Value]) -> Image | Reject:
    if cell.data is None:
        reason = f"holds no bytes, only the path {cell.path}" if cell.path else "is null"
        return Reject(key=key, uri=where, reason=reason, bytes=0)
    size = len(cell.data)
    if size > MAX_IMAGE_BYTES:
        return Reject(key=key, uri=where, reason=too_large(size), bytes=size)
    data = cell.data if isinstance(cell.data, bytes) else cell.data.to_pybytes()
    return Image(key=key, uri=where, data=data, metadata=metadata)


def _rows(column: pa.Array, columns: Columns) -> Iterator[Sequence[_Cell] | None]:
    """Yield the cells of each row: one, or those of its list, or None for a list that is null."""
    if columns.form == "vector":
        yield from ([_Cell(data=vector)] for vector in _vectors(column))
    elif columns.listed:
        offsets = _offsets(column)
        items = list(_images(stored(column.flatten()), columns))
        valid = column.is_valid().to_pylist()
        for row, is_there in enumerate(valid):
            yield items[offsets[row] : offsets[row + 1]] if is_there else None
    else:
        yield from ([cell] for cell in _images(column, columns))


def _images(column: pa.Array, columns: Columns) -> Iterator[_Cell]:
    if columns.form == "struct":
        paths = _texts(_field(column, columns.path)) if columns.path else [None] * len(column)
        values = _field(column, columns.data)
    else:
        paths, values = [None] * len(column), column
    for value, path in zip(values, paths, strict=True):
        yield _Cell(data=_bytes(value), path=path)


def _bytes(value: pa.Scalar) -> pa.Buffer | None:
    if not value.is_valid:
        return None
    return value.as_buffer()


def _vectors(column: pa.Array) -> Iterator[bytes | None]:
    """Yield the vector of each row as little-endian float32, None where it is null; nulls within are NaN."""
    offsets, values = _offsets(column), _values(column)
    for row, is_there in enumerate(column.is_valid().to_pylist()):
        yield values[offsets[row] : offsets[row + 1]].tobytes() if is_there else None


def _values(column: pa.Array) -> Floats:
    """Return the numbers of all rows, one row after the other, as little-endian float32."""
    return np.ascontiguousarray(stored(column.flatten()).to_numpy(zero_copy_only=False), VALUE)


def _offsets(column: pa.Array) -> npt.NDArray[np.int64]:
    """Return where the items of each row (n + 1,) begin in the flattened column; null lists have none."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _field(column: pa.Array, name: str) -> pa.Array:
    """Return one field of a column of structs; a null struct has null fields."""
    return stored(pc.struct_field(column, column.type.get_field_index(name)))


def _texts(column: pa.Array) -> list[str | None]:
    """Return values as text; what is not valid UTF-8 is shown as backslash escapes."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        raw = column.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary())
    elif pa.types.is_string_view(kind):
        raw = column.cast(pa.binary_view())
    else:
        return [None if value is None else f"{value}" for value in column.to_pylist()]
    return [None if value is None else value.decode("utf-8", "backslashreplace") for value in raw.to_pylist()]


def _metadata(batch: pa.RecordBatch, columns: Sequence[Column]) -> list[dict[str, Value]]:
    """Return the metadata of each row."""
    rows: list[dict[str, Value]] = [{} for _ in range(batch.num_rows)]
    for column in columns:
        for row, value in zip(rows, _simple(_column(batch, column.path)), strict=True):
            row[column.name] = cast_value(_plain_scalar(value), column.kind)
    return rows


def _column(batch: pa.RecordBatch, path: str) -> pa.Array:
    if path in batch.schema.names:
        return stored(batch.column(batch.schema.get_field_index(path)))
    first, _, rest = path.partition(".")
    inner = stored(batch.column(batch.schema.get_field_index(first)))
    # A null struct has null fields, which `field` does not say.
    names = [one.name for one in inner.type]
    fields = [pc.struct_field(inner, place) for place in range(len(names))]
    return _column(pa.RecordBatch.from_arrays(fields, names=names), rest)


def _simple(values: pa.Array) -> pa.Array:
    """Return values as Python has them without pandas: times to the microsecond in UTC."""
    if pa.types.is_timestamp(values.type):
        zone = values.type.tz
        values = pc.cast(values, pa.timestamp("us", zone), safe=False)
        return values.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us")) if zone else values
    return pc.cast(values, pa.float32()) if pa.types.is_float16(values.type) else values


def _plain_scalar(value: pa.Scalar) -> Any:
    """Return a value of Arrow's as one of Python's; None where Python has none, as for a year beyond 9999."""
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return None
