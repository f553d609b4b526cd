"""Listing: every source entry that has been dealt with, as a stream of batches. It is never held in memory whole.

A collection of single files has a row per image here, so this is the one list that grows with images, not with shards.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import staging
from pipeline.core.errors import IntegrityError
from pipeline.core.types import Artifact

BATCH = 1 << 16
STORED = pa.schema([("path", pa.string()), ("size", pa.int64()), ("etag", pa.string()), ("shard", pa.string())])
SCHEMA = STORED.append(pa.field("changed", pa.int64()))
"""In byte order of the path; shard is the one that the entry went into. changed: see Entry; null where nothing says it.

A file has the column "changed" only where a row has a value: listings of object stores and those of releases before it
are files of STORED.
"""


class Listing(Protocol):
    """Rows of SCHEMA in byte order of the path, to be read as often as needed."""

    @property
    def artifact(self) -> Artifact | None:
        """Where it is stored, if it is."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows."""
        ...


class Fetcher(Protocol):
    """The part of a catalog that a stored listing needs."""

    def fetch(self, artifact: Artifact, folder: Path) -> Path: ...  # noqa: D102 - see Catalog


class StoredListing:
    """A listing manifest; None stands for the empty one of a new ROOT."""

    def __init__(self, catalog: Fetcher | None = None, artifact: Artifact | None = None) -> None:
        self._catalog, self.artifact = catalog, artifact

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the file, verified before the first one."""
        if self._catalog is None or self.artifact is None:
            return
        with staging.folder() as folder:
            path = self._catalog.fetch(self.artifact, Path(folder))
            try:
                file = pq.ParquetFile(path)
            except pa.ArrowInvalid as error:
                raise IntegrityError(self.artifact.uri, f"is no Parquet file ({error})") from None
            with file:
                if not file.schema_arrow.equals(SCHEMA) and not file.schema_arrow.equals(STORED):
                    raise IntegrityError(self.artifact.uri, "has other columns than its manifest should")
                yield from _read(file)


class Spool:
    """Rows on local disk: appended once, read again and again, gone with the object."""

    def __init__(self, schema: pa.Schema) -> None:
        folder = staging.folder("spool-")
        weakref.finalize(self, folder.cleanup)
        self.schema, self.rows = schema, 0
        self._path = Path(folder.name) / "rows.arrow"
        self._sink: Any = pa.OSFile(str(self._path), "wb")
        self._writer: Any = pa.ipc.new_stream(self._sink, schema)

    def append(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Write rows; they stay one batch."""
        batch = rows.combine_chunks().to_batches() if isinstance(rows, pa.Table) else [rows]
        for part in batch:
            self.rows += part.num_rows
            with staging.writing():
                self._writer.write_batch(part)

    def finish(self) -> Spool:
        """Complete the file; only now may it be read."""
        with staging.writing():
            self._writer.close()
            self._sink.close()
        return self

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield what was appended."""
        with pa.OSFile(str(self._path), "rb") as file:
            yield from pa.ipc.open_stream(file)


def _read(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a listing's file, with null for what it does not say."""
    for batch in file.iter_batches(batch_size=BATCH):
        columns = batch.columns
        if len(columns) < len(SCHEMA):
            columns.append(pa.nulls(batch.num_rows, SCHEMA.field("changed").type))
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


class NewListing:
    """A listing manifest in the making, on local disk; gone with the object. Equal rows give equal bytes."""

    artifact: Artifact | None = None

    def __init__(self) -> None:
        folder = staging.folder("listing-")
        weakref.finalize(self, folder.cleanup)
        self.path, self.rows = Path(folder.name) / "listing.parquet", 0
        self._schema = STORED
        self._writer = self._opened()
        self._held: list[pa.RecordBatch] = []
        self._count = 0

    def append(self, rows: pa.RecordBatch) -> None:
        """Write rows; how they are batched does not show in the file."""
        self._held.append(rows)
        self._count += rows.num_rows
        self.rows += rows.num_rows
        if self._count >= BATCH:
            table = pa.Table.from_batches(self._held, SCHEMA)
            whole = self._count - self._count % BATCH
            with staging.writing():
                self._write(table.slice(0, whole))
            self._held, self._count = table.slice(whole).to_batches(), self._count - whole

    def finish(self) -> NewListing:
        """Complete the file; only now may it be read."""
        with staging.writing():
            if self._count:
                self._write(pa.Table.from_batches(self._held, SCHEMA))
            self._writer.close()
        return self

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield what was appended."""
        with pq.ParquetFile(self.path) as file:
            yield from _read(file)

    def _opened(self) -> pq.ParquetWriter:
        return pq.ParquetWriter(self.path, self._schema, compression="zstd")

    def _write(self, rows: pa.Table) -> None:
        if self._schema is STORED and rows["changed"].null_count < rows.num_rows:
            self._widen()
        self._writer.write_table(rows.select(self._schema.names).combine_chunks(), row_group_size=BATCH)

    def _widen(self) -> None:
        """Write the file so far again, with the column that no row of it needed."""
        self._writer.close()
        before = self.path.rename(self.path.with_suffix(".before"))
        self._schema = SCHEMA
        self._writer = self._opened()
        with pq.ParquetFile(before) as file:
            for batch in _read(file):
                self._writer.write_table(pa.Table.from_batches([batch]), row_group_size=BATCH)
        before.unlink()


def aligned(
    left: Iterable[pa.RecordBatch], right: Iterable[pa.RecordBatch], schemas: tuple[pa.Schema, pa.Schema]
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Cut two streams, each in byte order of its column "path", at the same paths, some batches at a time.

    Rows of equal path must lie in one batch of a stream.
    """
    streams = (iter(left), iter(right))
    held = [schemas[0].empty_table(), schemas[1].empty_table()]
    ended = [False, False]
    while True:
        for side in (0, 1):
            while not ended[side] and held[side].num_rows == 0:
                batch = next(streams[side], None)
                ended[side] = batch is None
                if batch is not None:
                    held[side] = pa.Table.from_batches([batch], schemas[side])
        lasts = [table["path"][-1].as_py() for table in held if table.num_rows]
        if not lasts:
            return
        # Beyond the smaller last path, the other stream may still hold rows that belong between.
        cut = min(lasts, key=str.encode)
        counts = [_up_to(table, cut) for table in held]
        yield held[0].slice(0, counts[0]), held[1].slice(0, counts[1])
        held = [table.slice(count) for table, count in zip(held, counts, strict=True)]


def _up_to(table: pa.Table, path: str) -> int:
    low, high = 0, table.num_rows
    column, wanted = table["path"], path.encode()
    while low < high:
        middle = (low + high) // 2
        if column[middle].as_py().encode() <= wanted:
            low = middle + 1
        else:
            high = middle
    return low
