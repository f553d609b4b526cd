"""Parquet files that hold encoded images, in the layout of Hugging Face datasets or as a plain column of bytes; or
vectors, as a column of lists of numbers, which are handed over as float32 (see extract/precomputed.py).

Streamed in small batches. Plain Arrow storage only: extension types are read as what they store, never interpreted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import NotFoundError, ShardError
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.sources import MAX_IMAGE_BYTES, SourceSpec
from pipeline.sources._containers import Containers
from pipeline.sources._files import too_large

SUFFIX = ".parquet"
COLUMN_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "content", "data")
"""Names that a column of encoded images goes by when it is not a struct of bytes and path."""
_BATCH_ROWS = 64
_VECTOR_ROWS = 4096


class Spec(SourceSpec):
    """image_column "" finds the column, of images or else of vectors; key_column names images, else the struct's path,
    else the row number.

    Every row is wanted unless `match` says otherwise. The key is "<parquet path>/<name>".
    """

    packs: ClassVar[bool] = False

    image_column: str = ""
    key_column: str = ""

    def open(self, location: str) -> ParquetSource:
        """Open the folder or the file; a UserError when a local one is not there."""
        return ParquetSource(self, Containers(location, SUFFIX))


class ParquetSource:
    """See pipeline.sources.Source."""

    def __init__(self, spec: Spec, containers: Containers) -> None:
        self._spec, self._containers = spec, containers

    @property
    def skipped(self) -> int:
        """Files that are not .parquet."""
        return self._containers.skipped

    def listing(self) -> Iterator[Entry]:
        """Yield the Parquet files."""
        return self._containers.listing()

    def images(self, shard: Shard) -> Iterator[Image | Reject]:
        """Stream the rows in their order; ShardError when the file cannot be read to its end."""
        (entry,) = shard.entries
        try:
            with self._containers.store.open(entry.path) as file:
                yield from self._rows(pq.ParquetFile(file, page_checksum_verification=True), entry)
        except NotFoundError:
            raise ShardError("is gone since it was listed") from None
        except (pa.ArrowException, OSError) as error:
            line = " ".join(str(error).split())[:160]
            raise ShardError(f"is no sound Parquet file ({line})") from None

    def _rows(self, file: pq.ParquetFile, entry: Entry) -> Iterator[Image | Reject]:
        column = image_column(file.schema_arrow, self._spec.image_column)
        keys = self._spec.key_column
        if keys and keys not in file.schema_arrow.names:
            raise ShardError(f"has no column {keys!r}, only {', '.join(file.schema_arrow.names)}")
        uri = self._containers.uri(entry)
        number = 0
        rows = _VECTOR_ROWS if _is_vector(file.schema_arrow.field(column)) else _BATCH_ROWS
        for batch in file.iter_batches(batch_size=rows, columns=[column, *([keys] if keys else [])]):
            names = batch.column(batch.schema.get_field_index(keys)).to_pylist() if keys else [None] * batch.num_rows
            values = _storage(batch.column(batch.schema.get_field_index(column)))
            for value, name in zip(values, names, strict=True):
                item = _item(_plain_value(value), name, number, entry.path, uri)
                if not self._spec.match or self._spec.wants(item.key):
                    yield item
                number += 1


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _plain_value(value: pa.Scalar) -> Any:
    """Return the bytes, the struct, or a vector as little-endian float32."""
    if isinstance(value, pa.ListScalar) and value.is_valid:
        return np.asarray(value.values.to_numpy(zero_copy_only=False), "<f4").tobytes()
    return value.as_py()


def _item(value: Any, name: Any, number: int, path: str, uri: str) -> Image | Reject:
    data, inner = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    key = f"{path}/{name if name is not None else inner or f'{number:09d}'}"
    where = f"{uri}#row={number}"
    if data is None:
        reason = f"holds no bytes, only the path {inner}" if inner else "is null"
        return Reject(key=key, uri=where, reason=reason, bytes=0)
    if len(data) > MAX_IMAGE_BYTES:
        return Reject(key=key, uri=where, reason=too_large(len(data)), bytes=len(data))
    return Image(key=key, uri=where, data=data)


def image_column(schema: pa.Schema, wanted: str) -> str:
    """Return the column of images, or else of vectors; ShardError lists the columns where it is not clear which."""
    names = ", ".join(schema.names)
    if wanted:
        kinds = (_is_struct, _is_bytes, _is_vector)
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
    vectors = [field.name for field in schema if _is_vector(field)]
    if not structs and not plain and len(vectors) == 1:
        return str(vectors[0])
    raise ShardError(f"has no single column of image bytes among {names}; name it in the recipe as image_column")


def _plain(field: pa.Field) -> pa.DataType:
    return field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type


def _is_struct(field: pa.Field) -> bool:
    kind = _plain(field)
    return pa.types.is_struct(kind) and "bytes" in {inner.name for inner in kind}


def _is_vector(field: pa.Field) -> bool:
    kind = _plain(field)
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in lists) and bool(pa.types.is_floating(kind.value_type))


def _is_bytes(field: pa.Field) -> bool:
    kind = _plain(field)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
