"""Manifests: the lists of a snapshot that grow with shards, as Arrow tables and Parquet bytes. Columns, no locations.

Lists stay tables so that 10^6 shards fit in memory; records are made only of the rows at hand. The list that grows
with images is in listing.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import IntegrityError
from pipeline.core.types import Artifact, DescriptorFile, IndexShard, Ints

_ARTIFACT = pa.struct([("uri", pa.string()), ("sha256", pa.string()), ("bytes", pa.int64())])

_COUNTS = ("rows", "indexed", "rejected", "duplicates", "dim")

DESCRIPTORS = pa.schema(
    [
        ("id", pa.string()),
        ("shard_id", pa.string()),
        ("writer", pa.string()),
        ("artifact", _ARTIFACT),
        ("rejects", _ARTIFACT),
        *((name, pa.int64()) for name in _COUNTS),
        ("dtype", pa.string()),
    ]
)
INDEXES = pa.schema(
    [
        ("kind", pa.string()),
        ("fingerprint", pa.string()),
        ("trained", _ARTIFACT),
        ("artifact", _ARTIFACT),
        ("rows", pa.int64()),
        ("files", pa.list_(pa.string())),
    ]
)
TOMBSTONES = pa.schema([("file", pa.string()), ("rows", pa.list_(pa.int64()))])
"""Rows of descriptor files that are no longer part of the collection, sorted."""

_BY_KEY = [("key", pa.string()), ("entry", pa.string()), ("version", pa.int64())]
DELETIONS = pa.schema(
    [*_BY_KEY, ("sha256", pa.string()), ("scope", pa.string()), ("kept", pa.list_(pa.string()))],
)
"""Images deleted by name, sorted by key: the source may still hold them, and no later run brings them back. entry is
the listed path that the key lies in; version is the snapshot that deleted it. The other columns came after format 1 and
are null in older manifests: sha256 of the image, what the deletion holds for, and the keys of copies that stay; see
pipeline/stages/deletions.py for the rule."""

_WIDTH, _FLUSH = 15, 1 << 15

Rows = dict[str, Ints]
"""Sorted row numbers by descriptor file id."""


class DescriptorRows:
    """Collects descriptor files as a table, without keeping a Python object for each."""

    def __init__(self) -> None:
        self._columns: list[list[Any]] = [[] for _ in range(_WIDTH)]
        self._batches: list[pa.RecordBatch] = []

    def append(self, file: DescriptorFile) -> None:
        """Add one file."""
        values = (
            *(file.id, file.shard_id, file.writer, file.dtype),
            *(file.rows, file.indexed, file.rejected, file.duplicates, file.dim),
            *_flat(file.artifact),
            *_flat(file.rejects),
        )
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        if len(self._columns[0]) == _FLUSH:
            self._flush()

    def table(self) -> pa.Table:
        """Return what was collected, sorted by id."""
        self._flush()
        table = pa.Table.from_batches(self._batches, DESCRIPTORS)
        self._batches = []
        return table.sort_by("id")

    def _flush(self) -> None:
        columns, self._columns = self._columns, [[] for _ in range(_WIDTH)]
        strings = [pa.array(column, pa.string()) for column in columns[:4]]
        counts = [pa.array(column, pa.int64()) for column in columns[4:9]]
        columns = [*strings[:3], _structs(columns[9:12]), _structs(columns[12:]), *counts, strings[3]]
        self._batches.append(pa.RecordBatch.from_arrays(columns, schema=DESCRIPTORS))


def _flat(artifact: Artifact | None) -> tuple[str | None, str | None, int | None]:
    return (None, None, None) if artifact is None else (artifact.uri, artifact.sha256, artifact.bytes)


def _structs(columns: list[list[Any]]) -> pa.StructArray:
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _ARTIFACT, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=list(_ARTIFACT), mask=pc.is_null(arrays[0]))


def descriptor_table(files: Iterable[DescriptorFile]) -> pa.Table:
    """Return descriptor files as a table, sorted by id."""
    rows = DescriptorRows()
    for file in files:
        rows.append(file)
    return rows.table()


def descriptor_files(table: pa.Table) -> Iterator[DescriptorFile]:
    """Yield the rows of a descriptor table as records."""
    for batch in table.drop_columns(["id"]).to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            yield DescriptorFile.model_validate(row)


def index_table(shards: Iterable[IndexShard]) -> pa.Table:
    """Return index shards as a table, in the order given."""
    return pa.Table.from_pylist([shard.model_dump() for shard in shards], schema=INDEXES)


def index_shards(table: pa.Table) -> list[IndexShard]:
    """Return the rows of an index table as records."""
    return [IndexShard.model_validate(row) for row in table.to_pylist()]


def tombstone_table(rows: Rows) -> pa.Table:
    """Return tombstones by descriptor file id."""
    names = sorted(name for name in rows if len(rows[name]))
    offsets = np.cumsum([0, *(len(rows[name]) for name in names)])
    values = np.concatenate([np.zeros(0, np.int64), *(rows[name] for name in names)])
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, pa.int64()))
    return pa.table([pa.array(names, pa.string()), lists], schema=TOMBSTONES)


def tombstones(table: pa.Table) -> Rows:
    """Return the rows of a tombstone table."""
    names, lists = table["file"].to_pylist(), table["rows"].combine_chunks()
    return {name: lists[place].values.to_numpy() for place, name in enumerate(names)}


def among(values: pa.ChunkedArray | pa.Array, others: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return which values are among others, as booleans; the smaller side is the one that is hashed."""
    if not len(values) or not len(others):
        return pa.array(np.zeros(len(values), bool))
    if 8 * len(values) < len(others):
        others = others.filter(pc.is_in(others, _whole(values)))
    return pc.is_in(values, _whole(others))


def _whole(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def with_rows(table: pa.Table, more: pa.Table) -> pa.Table:
    """Return two tables sorted by id as one; a few rows more copy nothing of a large table."""
    if not more.num_rows or not table.num_rows:
        return table if table.num_rows else more
    if more.num_rows > 4096:
        return pa.concat_tables([table, more]).sort_by("id")
    parts, start = [], 0
    for place, name in enumerate(more["id"].to_pylist()):
        end = _first_not_below(table["id"], name)
        parts += [table.slice(start, end - start), more.slice(place, 1)]
        start = end
    return pa.concat_tables([*parts, table.slice(start)])


def _first_not_below(column: pa.ChunkedArray, name: str) -> int:
    low, high = 0, len(column)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if column[middle].as_py() < name else (low, middle)
    return low


def united(one: Rows, other: Rows) -> Rows:
    """Return the rows that are in either."""
    both = {name: np.union1d(one[name], rows) if name in one else rows for name, rows in other.items()}
    return {**one, **both}


def total(table: pa.Table, column: str) -> int:
    """Return the sum of a counting column."""
    return int(pc.sum(table.column(column)).as_py() or 0)


def to_parquet(table: pa.Table) -> bytes:
    """Return a manifest's bytes; equal tables give equal bytes."""
    out = io.BytesIO()
    pq.write_table(table.combine_chunks(), out, compression="zstd", row_group_size=1 << 16)
    return out.getvalue()


def from_parquet(data: bytes, schema: pa.Schema, name: str) -> pa.Table:
    """Read a manifest whose digest has been verified."""
    try:
        table: pa.Table = pq.read_table(io.BytesIO(data))
    except pa.ArrowInvalid as error:
        raise IntegrityError(name, f"is no Parquet file ({error})") from None
    if not table.schema.equals(schema):
        raise IntegrityError(name, "has other columns than its manifest should")
    return table


def deletion_table(data: bytes, name: str) -> pa.Table:
    """Read a manifest of deletions; an older one gets null for what it does not know."""
    try:
        return from_parquet(data, DELETIONS, name)
    except IntegrityError:
        older = from_parquet(data, pa.schema(_BY_KEY), name)
    columns = [pa.nulls(older.num_rows, field.type) for field in list(DELETIONS)[len(_BY_KEY) :]]
    return pa.table([*older.columns, *columns], schema=DELETIONS)


def uris(table: pa.Table, column: str) -> list[str]:
    """Return the names of the objects in one column of artifacts, each once and without nulls."""
    found: list[str] = pc.struct_field(table[column], "uri").unique().drop_null().to_pylist()
    return found


def artifact_column(table: pa.Table, column: str = "artifact") -> list[Artifact]:
    """Return the artifacts named in one column, without nulls."""
    values: list[Any] = table.column(column).to_pylist()
    return [Artifact.model_validate(value) for value in values if value is not None]
