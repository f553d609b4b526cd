"""Manifests: the lists a snapshot refers to, as Arrow tables and Parquet bytes. Columns, no locations.

Lists stay tables so that 10^6 shards fit in memory; records are made only of the rows at hand.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import IntegrityError
from pipeline.core.types import Artifact, DescriptorFile, IndexShard, Tombstone

_ARTIFACT = pa.struct([("uri", pa.string()), ("sha256", pa.string()), ("bytes", pa.int64())])

LISTING = pa.schema([("path", pa.string()), ("size", pa.int64()), ("etag", pa.string()), ("shard", pa.string())])
"""Every source entry that has been dealt with, in byte order of the path, and the shard it went into."""

DESCRIPTORS = pa.schema(
    [
        ("id", pa.string()),
        ("shard_id", pa.string()),
        ("writer", pa.string()),
        ("artifact", _ARTIFACT),
        ("rejects", _ARTIFACT),
        *((name, pa.int64()) for name in ("rows", "indexed", "rejected", "duplicates", "dim")),
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


def descriptor_table(files: Iterable[DescriptorFile]) -> pa.Table:
    """Return descriptor files as a table, in the order given."""
    return pa.Table.from_pylist([{"id": f.id, **f.model_dump()} for f in files], schema=DESCRIPTORS)


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


def tombstone_table(rows_of: dict[str, Iterable[int]]) -> pa.Table:
    """Return tombstones, by descriptor file id and with sorted rows."""
    rows = [{"file": name, "rows": sorted(set(rows_of[name]))} for name in sorted(rows_of)]
    return pa.Table.from_pylist([row for row in rows if row["rows"]], schema=TOMBSTONES)


def tombstones(table: pa.Table) -> list[Tombstone]:
    """Return the rows of a tombstone table as records."""
    return [Tombstone.model_validate(row) for row in table.to_pylist()]


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


def artifact_column(table: pa.Table, column: str = "artifact") -> list[Artifact]:
    """Return the artifacts named in one column, without nulls."""
    values: list[Any] = table.column(column).to_pylist()
    return [Artifact.model_validate(value) for value in values if value is not None]
