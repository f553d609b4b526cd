"""Columns of encoded images, or of vectors, and of metadata in Arrow tables: finding them, and turning rows into items.

Plain Arrow storage only: extension types are read as what they store, never interpreted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import ShardError
from pipeline.core.metadata import Column, Value, cast_value
from pipeline.core.types import Image, Reject
from pipeline.sources import MAX_IMAGE_BYTES
from pipeline.sources._files import too_large

COLUMN_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "content", "data")
"""Names that a column of encoded images goes by when it is not a struct of bytes and path."""


def columns_of(schema: pa.Schema, image: str, key: str) -> tuple[str, ...]:
    """Return the column of images or vectors, and that of keys where one is wanted; ShardError lists what there is."""
    column = image_column(schema, image)
    if key and key not in schema.names:
        raise ShardError(f"has no column {key!r}, only {', '.join(schema.names)}")
    return (column, key) if key else (column,)


def metadata_columns(schema: pa.Schema, columns: Sequence[Column]) -> list[str]:
    """Return the columns, or fields of structs, to read for metadata; ShardError lists what there is without some."""
    missing = [column.path for column in columns if not _is_there(schema, column.path)]
    if missing:
        raise ShardError(f"has no column {', '.join(map(repr, missing))} of metadata, only {', '.join(schema.names)}")
    return [column.path for column in columns]


def items_of(
    batch: pa.RecordBatch,
    columns: tuple[str, ...],
    start: int,
    path: str,
    uri: str,
    metadata: Sequence[Column] = (),
) -> Iterator[Image | Reject]:
    """Yield the rows of a batch, the first of which is row `start` of its file."""
    values = _storage(batch.column(batch.schema.get_field_index(columns[0])))
    names = [None] * batch.num_rows
    if len(columns) > 1:
        names = batch.column(batch.schema.get_field_index(columns[1])).to_pylist()
    told = _metadata(batch, metadata)
    for number, (value, name, known) in enumerate(zip(values, names, told, strict=True), start=start):
        yield _item(_plain_value(value), name, number, path, uri, known)


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _plain_value(value: pa.Scalar) -> Any:
    """Return the bytes, the struct, or a vector as little-endian float32."""
    if isinstance(value, pa.ListScalar) and value.is_valid:
        return np.asarray(value.values.to_numpy(zero_copy_only=False), "<f4").tobytes()
    return value.as_py()


def _item(value: Any, name: Any, number: int, path: str, uri: str, metadata: Mapping[str, Value]) -> Image | Reject:
    data, inner = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    key = f"{path}/{name if name is not None else inner or f'{number:09d}'}"
    where = f"{uri}#row={number}"
    if data is None:
        reason = f"holds no bytes, only the path {inner}" if inner else "is null"
        return Reject(key=key, uri=where, reason=reason, bytes=0)
    if len(data) > MAX_IMAGE_BYTES:
        return Reject(key=key, uri=where, reason=too_large(len(data)), bytes=len(data))
    return Image(key=key, uri=where, data=data, metadata=metadata)


def _is_there(schema: pa.Schema, path: str) -> bool:
    """Tell whether there is one column of that name, or of the name before a dot and fields of a struct after it."""
    if path in schema.names:
        return int(schema.get_field_index(path)) >= 0
    first, _, rest = path.partition(".")
    place = schema.get_field_index(first)
    if not rest or place < 0 or not pa.types.is_struct(_plain(schema.field(place))):
        return False
    return _is_there(pa.schema(list(_plain(schema.field(place)))), rest)


def _metadata(batch: pa.RecordBatch, columns: Sequence[Column]) -> list[dict[str, Value]]:
    """Return the metadata of each row."""
    rows: list[dict[str, Value]] = [{} for _ in range(batch.num_rows)]
    for column in columns:
        for row, value in zip(rows, _simple(_column(batch, column.path)), strict=True):
            row[column.name] = cast_value(_plain_scalar(value), column.kind)
    return rows


def _column(batch: pa.RecordBatch, path: str) -> pa.Array:
    if path in batch.schema.names:
        return _storage(batch.column(batch.schema.get_field_index(path)))
    first, _, rest = path.partition(".")
    inner = _storage(batch.column(batch.schema.get_field_index(first)))
    # A null struct has null fields, which `field` does not say.
    names = [field.name for field in inner.type]
    fields = [pc.struct_field(inner, place) for place in range(len(names))]
    return _column(pa.RecordBatch.from_arrays(fields, names=names), rest)


def _simple(values: pa.Array) -> pa.Array:
    """Return values as Python has them without pandas: no dictionaries, times to the microsecond in UTC."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
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


def image_column(schema: pa.Schema, wanted: str) -> str:
    """Return the column of images, or else of vectors; ShardError lists the columns where it is not clear which."""
    names = ", ".join(schema.names)
    if wanted:
        kinds = (_is_struct, _is_bytes, is_vector)
        if wanted not in schema.names or not any(kind(schema.field(wanted)) for kind in kinds):
            raise ShardError(f"has no column {wanted!r} of image bytes or of vectors, only {names}")
        return wanted
    structs = [field.name for field in schema if _is_struct(field)]
    if len(structs) == 1:
        return str(structs[0])
    plain = [field.name for field in schema if _is_bytes(field)]
    for name in COLUMN_NAMES:
        if name in (structs or plain):
            return name
    if not structs and len(plain) == 1:
        return str(plain[0])
    vectors = [field.name for field in schema if is_vector(field)]
    if not structs and not plain and len(vectors) == 1:
        return str(vectors[0])
    raise ShardError(f"has no single column of image bytes among {names}; name it in the recipe as image_column")


def _plain(field: pa.Field) -> pa.DataType:
    return field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type


def _is_struct(field: pa.Field) -> bool:
    kind = _plain(field)
    return pa.types.is_struct(kind) and "bytes" in {inner.name for inner in kind}


def is_vector(field: pa.Field) -> bool:
    kind = _plain(field)
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in lists) and bool(pa.types.is_floating(kind.value_type))


def _is_bytes(field: pa.Field) -> bool:
    kind = _plain(field)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
