"""Parquet files that hold encoded images, in the layout of Hugging Face datasets or as a plain column of bytes; or
vectors, as a column of lists of numbers, which are handed over as float32 (see extract/precomputed.py).

Streamed in small batches. Plain Arrow storage only: extension types are read as what they store, never interpreted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import NotFoundError, ShardError
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.sources import CarryingSpec
from pipeline.sources._columns import columns_of, is_vector, items_of, metadata_columns
from pipeline.sources._containers import Containers, ContainerSource

SUFFIX = ".parquet"
_BATCH_ROWS = 64
_VECTOR_ROWS = 4096


class Spec(CarryingSpec):
    """image_column "" finds the column, of images or else of vectors; key_column names images, else the struct's path,
    else the row number.

    Every row is wanted unless `match` says otherwise. The key is "<parquet path>/<name>". Metadata is other columns.
    """

    packs: ClassVar[bool] = False

    image_column: str = ""
    key_column: str = ""

    def open(self, location: str) -> ParquetSource:
        """Open the folder or the file; a UserError when a local one is not there."""
        return ParquetSource(self, Containers(location, SUFFIX))


class ParquetSource(ContainerSource[Spec]):
    """See pipeline.sources.Source."""

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

    def pick_from(self, entry: Entry, key: str, uri: str) -> bytes | None:
        """Return one row's image, reading only its row group; ShardError when the file cannot be read any more."""
        try:
            with self._containers.store.open(entry.path) as raw:
                return self._picked(pq.ParquetFile(raw), entry, key, uri)
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"is no sound Parquet file ({' '.join(str(error).split())[:160]})") from None

    def _picked(self, file: pq.ParquetFile, entry: Entry, key: str, uri: str) -> bytes | None:
        row = uri.rpartition("#row=")[2]
        if row.isdecimal() and int(row) < file.metadata.num_rows:
            ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
            group = int(np.searchsorted(ends, int(row), side="right"))
            number = int(ends[group]) - file.metadata.row_group(group).num_rows
            chosen = columns_of(file.schema_arrow, self._spec.image_column, self._spec.key_column)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=list(chosen)):
                if int(row) < number + batch.num_rows:
                    (item,) = items_of(batch.slice(int(row) - number, 1), chosen, int(row), entry.path, uri)
                    return item.data if isinstance(item, Image) and item.key == key else None
                number += batch.num_rows
        return None

    def _rows(self, file: pq.ParquetFile, entry: Entry) -> Iterator[Image | Reject]:
        chosen = columns_of(file.schema_arrow, self._spec.image_column, self._spec.key_column)
        uri, number = self._containers.uri(entry), 0
        rows = _VECTOR_ROWS if is_vector(file.schema_arrow.field(chosen[0])) else _BATCH_ROWS
        metadata = self._spec.columns
        wanted = [*chosen, *metadata_columns(file.schema_arrow, metadata)]
        for batch in file.iter_batches(batch_size=rows, columns=wanted):
            for item in items_of(batch, chosen, number, entry.path, uri, metadata):
                if self._spec.selects(item.key):
                    yield item
            number += batch.num_rows
