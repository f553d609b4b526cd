"""Rejects Parquet: the images of a shard that were seen and not indexed, with their reasons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.row_groups import RowGroupWriter
from pipeline.core.types import Reject

REJECT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)
"""sha256, of the encoded image where it was read, came after the other columns."""


ROW_GROUP = 1 << 16


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write the images that were seen and not indexed, with their reasons."""
    pq.write_table(_table(rejects), path, compression="zstd")


def read_rejects(source: Path | BinaryIO) -> list[Reject]:
    """Read a rejects file back."""
    return [Reject(**row) for row in pq.read_table(source).to_pylist()]


class RejectsFile:
    """A context manager that writes rejects as they come, those of `at_the_end` behind all others; none are held.

    Small files are what `write_rejects` makes of the same rejects. count: so many were added.
    """

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._file = RowGroupWriter(path, REJECT_SCHEMA, row_group_size=ROW_GROUP, compression="zstd")
        self._aside_path = path.with_suffix(".aside")
        self._aside = pa.ipc.new_file(str(self._aside_path), REJECT_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def add(self, rejects: Sequence[Reject]) -> None:
        """Write some."""
        self.count += len(rejects)
        if rejects:
            self._file.add(_table(rejects))

    def at_the_end(self, rejects: Sequence[Reject]) -> None:
        """Write some behind those that are still to be added."""
        self.count += len(rejects)
        if rejects:
            self._aside.write_table(_table(rejects))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._aside.close()
        with self._file, self._aside_path.open("rb") as file:
            if error is None:
                reader = pa.ipc.open_file(file)
                for number in range(reader.num_record_batches):
                    self._file.add(pa.Table.from_batches([reader.get_batch(number)]))
        self._aside_path.unlink()


def _table(rejects: Iterable[Reject]) -> pa.Table:
    rows = [{name: getattr(reject, name) for name in REJECT_SCHEMA.names} for reject in rejects]
    return pa.Table.from_pylist(rows, schema=REJECT_SCHEMA)
