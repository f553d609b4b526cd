"""Descriptor Parquet: one file per shard, readable by other tools as it is; and the rejects beside it.

Columns: key, uri, width, height, sha256 (hex, of the encoded image), [image_row, box, score for local descriptors],
descriptor as FixedSizeList<float16|float32>. The footer carries format, recipe fingerprint, dim and dtype. Locations
and digests are not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import IntegrityError
from pipeline.core.types import DType, Floats, Ints, Reject

FORMAT = "sightline-descriptors-1"
ROW_GROUP = 1024
"""Rows per row group: re-ranking reads single rows, and a group is what Parquet can read of them."""

REJECT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("bytes", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """What is known of an indexed image beside its descriptor; width and height are of the original, EXIF applied."""

    key: str
    uri: str
    width: int
    height: int
    sha256: str


def schema(dim: int, dtype: DType, recipe: str) -> pa.Schema:
    """Return the Arrow schema of global descriptors of length `dim`."""
    value = pa.float16() if dtype == "float16" else pa.float32()
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("descriptor", pa.list_(pa.field("element", value, nullable=False), dim), nullable=False),
    ]
    footer = {
        "sightline.format": FORMAT,
        "sightline.recipe": recipe,
        "sightline.dim": str(dim),
        "sightline.dtype": dtype,
    }
    return pa.schema(fields, metadata=footer)


def write_descriptors(path: Path, images: Sequence[ImageRow], vectors: Floats, *, dtype: DType, recipe: str) -> None:
    """Write a descriptor file: one row per image, vectors (n, d) float32 stored as `dtype`.

    The bytes depend on the arguments and the pyarrow version only.
    """
    n, dim = vectors.shape
    assert n == len(images), "one vector per image"
    target = schema(dim, dtype, recipe)
    flat = np.ascontiguousarray(vectors, dtype=np.float16 if dtype == "float16" else np.float32).reshape(-1)
    columns: list[Any] = [
        pa.array([image.key for image in images], pa.string()),
        pa.array([image.uri for image in images], pa.string()),
        pa.array([image.width for image in images], pa.int32()),
        pa.array([image.height for image in images], pa.int32()),
        pa.array([image.sha256 for image in images], pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(flat), type=target.field("descriptor").type),
    ]
    table = pa.Table.from_arrays(columns, schema=target)
    _write(table, path)


def _write(table: pa.Table, path: Path) -> None:
    # Descriptors are noise to a compressor, and statistics over their elements are of no use to anyone.
    pq.write_table(
        table,
        path,
        row_group_size=ROW_GROUP,
        compression={name: "NONE" if "descriptor" in name else "ZSTD" for name in _leaves(table.schema)},
        use_dictionary=False,
        write_statistics=["key"],
    )


def _leaves(target: pa.Schema) -> list[str]:
    return [f"{f.name}.list.element" if pa.types.is_fixed_size_list(f.type) else f.name for f in target]


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write the images that were seen and not indexed, with their reasons."""
    rows = [{"key": r.key, "uri": r.uri, "status": r.status, "reason": r.reason, "bytes": r.bytes} for r in rejects]
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECT_SCHEMA), path, compression="zstd")


def read_rejects(source: Path | BinaryIO) -> list[Reject]:
    """Read a rejects file back."""
    return [Reject(**row) for row in pq.read_table(source).to_pylist()]


class DescriptorReader:
    """Reads a descriptor file whole, streamed, or by rows. `source` is a path or a seekable file, verified before."""

    def __init__(self, source: Path | BinaryIO, name: str = "") -> None:
        self.name = name or str(source)
        try:
            self._file = pq.ParquetFile(source)
        except (pa.ArrowInvalid, OSError) as error:
            raise IntegrityError(self.name, f"is no Parquet file ({str(error).splitlines()[0]})") from None
        footer = self._file.schema_arrow.metadata or {}
        if footer.get(b"sightline.format", b"").decode() != FORMAT:
            raise IntegrityError(self.name, f"is not of format {FORMAT}")
        self.recipe = footer[b"sightline.recipe"].decode()
        self.dim = int(footer[b"sightline.dim"])
        self.rows = int(self._file.metadata.num_rows)

    def vectors(self) -> Floats:
        """Return every descriptor (n, d) as float32."""
        parts = list(self.batches(1 << 16))
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def batches(self, rows: int) -> Iterator[Floats]:
        """Yield descriptors (≤ rows, d) as float32, in order."""
        for batch in self._file.iter_batches(batch_size=rows, columns=["descriptor"]):
            yield _matrix(batch.column(0), self.dim)

    def whole(self) -> pa.Table:
        """Return every column, with the footer's metadata."""
        return self._file.read()

    def keys(self) -> list[str]:
        """Return the keys in row order."""
        keys: list[str] = self._file.read(columns=["key"]).column(0).to_pylist()
        return keys

    def images(self) -> list[ImageRow]:
        """Return everything but the descriptors, in row order."""
        table = self._file.read(columns=["key", "uri", "width", "height", "sha256"])
        return [ImageRow(**row) for row in table.to_pylist()]

    def take(self, rows: Ints, columns: Sequence[str]) -> pa.Table:
        """Return the given rows (any order, repeats allowed) of some columns, reading only their row groups."""
        groups, offsets = np.unique(rows // ROW_GROUP, return_inverse=True)
        parts = [self._file.read_row_group(int(group), columns=list(columns)) for group in groups]
        starts = np.concatenate([[0], np.cumsum([part.num_rows for part in parts])])
        return pa.concat_tables(parts).take(pa.array(starts[offsets] + rows % ROW_GROUP))

    def take_vectors(self, rows: Ints) -> Floats:
        """Return the descriptors (len(rows), d) of the given rows as float32."""
        if len(rows) == 0:
            return np.zeros((0, self.dim), np.float32)
        return _matrix(self.take(rows, ["descriptor"]).column(0).combine_chunks(), self.dim)


def _matrix(column: Any, dim: int) -> Floats:
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float32).reshape(-1, dim)


def without_rows(source: Path, target: Path, dead: Ints, *, name: str) -> tuple[int, int]:
    """Copy a descriptor file without some rows; return (rows, images) of the copy. Nothing else changes."""
    reader = DescriptorReader(source, name)
    table = reader.whole()
    live = table.take(pa.array(np.setdiff1d(np.arange(reader.rows), dead)))
    _write(live, target)
    return int(live.num_rows), len(live["key"].unique())
