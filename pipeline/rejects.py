"""Rejects Parquet: the images of a shard that were seen and not indexed, with their reasons."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

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


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write the images that were seen and not indexed, with their reasons."""
    rows = [{name: getattr(reject, name) for name in REJECT_SCHEMA.names} for reject in rejects]
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECT_SCHEMA), path, compression="zstd")


def read_rejects(source: Path | BinaryIO) -> list[Reject]:
    """Read a rejects file back."""
    return [Reject(**row) for row in pq.read_table(source).to_pylist()]
