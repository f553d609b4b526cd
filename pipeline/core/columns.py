"""Vectors and metadata as Arrow columns, and back. Which columns a file has, and in what order, is not decided here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.metadata import Kind, Value
from pipeline.core.types import DType, Floats, Span

METADATA: dict[Kind, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us"),
}
"""How metadata is stored."""
SPAN = ("container_offset", "container_bytes")
"""Columns that say where an image's bytes lie in the archive that holds it; int64, null where they do not."""
FOOTER = "sightline.metadata"
"""Where a file's footer says which columns are metadata, and of which kinds, as JSON."""


def required(name: str, kind: pa.DataType) -> pa.Field:
    """Return a field that is never null."""
    return pa.field(name, kind, nullable=False)


def fixed(value: pa.DataType, length: int) -> pa.DataType:
    """Return the type of lists of one length."""
    return pa.list_(pa.field("element", value, nullable=False), length)


def vector_type(dim: int, dtype: DType) -> pa.DataType:
    """Return the type of a column of vectors; binary ones are packed signs."""
    if dtype == "binary":
        return pa.binary(-(-dim // 8))
    return fixed(pa.float16() if dtype == "float16" else pa.float32(), dim)


def lists(values: Any, kind: pa.DataType) -> pa.Array:
    """Return a matrix (n, length) as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), type=kind)


def encoded(vectors: Floats, dtype: DType, kind: pa.DataType) -> pa.Array:
    """Return vectors (n, d) as a column of a `vector_type`."""
    if dtype != "binary":
        return lists(vectors.astype(np.float16 if dtype == "float16" else np.float32), kind)
    codes = np.packbits(vectors >= 0, axis=1, bitorder="little")
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(codes), [None, pa.py_buffer(codes.tobytes())])


def decoded(column: Any, dim: int, dtype: str) -> Floats:
    """Return a column of vectors as (n, dim) float32; packed signs as vectors of length 1."""
    if dtype == "binary":
        width = -(-dim // 8)
        codes = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width :][: len(column) * width]
        bits = np.unpackbits(codes.reshape(-1, width), axis=1, count=dim, bitorder="little")
        signs: Floats = (bits.astype(np.float32) * 2 - 1) / np.float32(np.sqrt(dim))
        return signs
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float32).reshape(-1, dim)


def metadata_array(images: Sequence[Mapping[str, Value]], name: str, kind: Kind) -> pa.Array:
    """Return one column of the images' metadata; null where an image has none."""
    return pa.array([image.get(name) for image in images], METADATA[kind])


def footer_of(metadata: Mapping[str, Kind]) -> dict[str, str]:
    """Return what a footer says of metadata: nothing where there is none."""
    return {FOOTER: json.dumps(dict(metadata))} if metadata else {}


def metadata_of(schema: pa.Schema) -> dict[str, Kind]:
    """Return what a file's footer says of its metadata."""
    found: dict[str, Kind] = json.loads((schema.metadata or {}).get(FOOTER.encode(), b"{}"))
    return found


def span_columns(spans: Sequence[Span | None], metadata: Mapping[str, Kind]) -> dict[str, pa.Array]:
    """Return where images lie in archives as columns by name; none where no image does.

    Nor where metadata goes by these names, which it could before there were such columns.
    """
    if not any(spans) or {name.lower() for name in metadata} & set(SPAN):
        return {}
    return {name: pa.array([span and span[part] for span in spans], pa.int64()) for part, name in enumerate(SPAN)}


def extended(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """Return a table with more columns at its end."""
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def spans_of(schema: pa.Schema) -> tuple[str, ...]:
    """Return the columns that say where images lie in archives, as far as a file has them."""
    return SPAN if set(SPAN) <= set(schema.names) - set(metadata_of(schema)) else ()


def span_of(row: Mapping[str, Any], names: Sequence[str]) -> Span | None:
    """Return where an image lies by a row's values of `spans_of`; None where that is not known."""
    values = [row[name] for name in names]
    return None if not values or None in values else (values[0], values[1])


def leaves(schema: pa.Schema) -> list[str]:
    """Return the columns of a schema as Parquet names them."""
    nested = (pa.types.is_fixed_size_list, pa.types.is_list)
    return [f"{f.name}.list.element" if any(is_it(f.type) for is_it in nested) else f.name for f in schema]
