"""Descriptor Parquet: one file per shard, readable by other tools as it is.

Columns: key, uri, width, height, sha256 (hex, of the encoded image), descriptor as FixedSizeList<float16|float32> (or
the packed signs, as FixedSizeBinary). A file of local descriptors has several rows per image, side by side, with
image_row, box, scale and score. A global descriptor that was made of local ones may keep them beside it, as lists:
local (float16 bytes), local_boxes, local_scales, local_scores. Metadata follows, nullable, by its own names; at the end
container_offset and container_bytes, nullable, where images lie in archives. The footer carries format, recipe
fingerprint, dim, dtype and the kinds of metadata. Locations and digests are not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import columns as arrow
from pipeline.core.errors import IntegrityError
from pipeline.core.metadata import Kind, Value
from pipeline.core.row_groups import RowGroupWriter
from pipeline.core.types import DescriptorBatch, DType, Floats, Ints, Span

FORMAT = "sightline-descriptors-1"
ROW_GROUP = 1024
"""Rows per row group: re-ranking reads single rows, and a group is what Parquet can read of them."""
KEPT_ROW_GROUP = 32
"""The same where local descriptors are kept: a row is about 200 kB."""

Kept = Callable[[Hashable, Callable[[], pa.Table]], pa.Table]
"""Returns a table by its name, reading it unless it is at hand."""


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """What is known of an indexed image beside its descriptor; width and height are of the original, EXIF applied.

    span: where its encoded bytes lie in the container that holds them, where that is known.
    """

    key: str
    uri: str
    width: int
    height: int
    sha256: str
    metadata: Mapping[str, Value] = field(default_factory=dict)
    span: Span | None = None


IMAGE = {"key": pa.string(), "uri": pa.string(), "width": pa.int32(), "height": pa.int32(), "sha256": pa.string()}
"""Columns that every file begins with."""


def schema(
    dim: int, dtype: DType, recipe: str, *, local: bool = False, kept: int = 0, metadata: Mapping[str, Kind] | None
) -> pa.Schema:
    """Return the Arrow schema of descriptors of length `dim`; kept: length of the local ones beside, if any."""
    fields = [arrow.required(name, kind) for name, kind in IMAGE.items()]
    if local:
        fields += [arrow.required("image_row", pa.int32()), arrow.required("box", arrow.fixed(pa.float32(), 4))]
        fields += [arrow.required("scale", pa.float32()), arrow.required("score", pa.float32())]
    fields.append(arrow.required("descriptor", arrow.vector_type(dim, dtype)))
    if kept:
        fields.append(arrow.required("local", pa.binary()))
        floats = pa.list_(pa.field("element", pa.float32(), nullable=False))
        fields += [arrow.required(name, floats) for name in ("local_boxes", "local_scales", "local_scores")]
    fields += [pa.field(name, arrow.METADATA[kind]) for name, kind in (metadata or {}).items()]
    footer = {
        "sightline.format": FORMAT,
        "sightline.recipe": recipe,
        "sightline.dim": str(dim),
        "sightline.dtype": dtype,
        **({"sightline.local_dim": str(kept)} if kept else {}),
        **arrow.footer_of(metadata or {}),
    }
    return pa.schema(fields, metadata=footer)


def write_descriptors(
    path: Path,
    images: Sequence[ImageRow],
    batch: DescriptorBatch,
    *,
    dtype: DType,
    recipe: str,
    metadata: Mapping[str, Kind] | None = None,
) -> None:
    """Write a descriptor file: the rows of each image, vectors (n, d) stored as `dtype`; metadata: its columns.

    The bytes depend on the arguments and the pyarrow version only.
    """
    dim = batch.vectors.shape[1]
    assert batch.is_local or len(batch.vectors) == len(images), "one global descriptor per image"
    local = batch.local
    local_dim = local.vectors.shape[1] if local is not None else 0
    target = schema(dim, dtype, recipe, local=batch.is_local, kept=local_dim, metadata=metadata)
    columns: list[Any] = [pa.array([getattr(image, name) for image in images], kind) for name, kind in IMAGE.items()]
    told = [image.metadata for image in images]
    more = [arrow.metadata_array(told, name, kind) for name, kind in (metadata or {}).items()]
    spans = arrow.span_columns([image.span for image in images], metadata or {})
    if batch.is_local:
        places = pa.array(batch.image_row)
        columns, more = [column.take(places) for column in columns], [column.take(places) for column in more]
        spans = {name: column.take(places) for name, column in spans.items()}
        columns += [places.cast(pa.int32()), arrow.lists(batch.boxes, target.field("box").type)]
        columns += [pa.array(batch.scales, pa.float32()), pa.array(batch.scores, pa.float32())]
    columns.append(arrow.encoded(batch.vectors, dtype, target.field("descriptor").type))
    if local is not None:
        kept = [local.of(image) for image in range(len(images))]
        columns.append(pa.array([image.vectors.astype(np.float16).tobytes() for image in kept], pa.binary()))
        for name in ("boxes", "scales", "scores"):
            values = [np.asarray(getattr(image, name), np.float32).reshape(-1) for image in kept]
            columns.append(pa.array(values, target.field(f"local_{name}").type))
    write_table(arrow.extended(pa.Table.from_arrays([*columns, *more], schema=target), spans), path)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table of descriptors, made here or changed elsewhere, as all of them are written."""
    pq.write_table(table, path, **_settings(table.schema))


def table_writer(path: Path, target: pa.Schema) -> RowGroupWriter:
    """Return a writer of a descriptor file that holds a row group at a time."""
    return RowGroupWriter(path, target, **_settings(target))


def _settings(target: pa.Schema) -> dict[str, Any]:
    # Descriptors are noise to a compressor, and statistics over their elements are of no use to anyone.
    noise = ("descriptor", "descriptor.list.element", "local")
    return {
        "row_group_size": KEPT_ROW_GROUP if "local" in target.names else ROW_GROUP,
        "compression": {name: "NONE" if name in noise else "ZSTD" for name in arrow.leaves(target)},
        "use_dictionary": False,
        "write_statistics": ["key", *arrow.metadata_of(target)],
    }


class DescriptorReader:
    """Reads a descriptor file whole, streamed, or by images. `source` is a path or a seekable file, verified before.

    rows counts vectors. Images are numbered in order; of a global descriptor image i is row i. kept: keeps small
    columns of row groups for the next time.
    """

    def __init__(self, source: Path | BinaryIO, name: str = "", kept: Kept | None = None) -> None:
        self.name, self._kept = name or str(source), kept
        try:
            self._file = pq.ParquetFile(source)
        except (pa.ArrowInvalid, OSError) as error:
            raise IntegrityError(self.name, f"is no Parquet file ({str(error).splitlines()[0]})") from None
        footer = self._file.schema_arrow.metadata or {}
        if footer.get(b"sightline.format", b"").decode() != FORMAT:
            raise IntegrityError(self.name, f"is not of format {FORMAT}")
        self.recipe = footer[b"sightline.recipe"].decode()
        self.dim = int(footer[b"sightline.dim"])
        self.dtype = footer[b"sightline.dtype"].decode()
        self.local_dim = int(footer.get(b"sightline.local_dim", b"0"))
        self.rows = int(self._file.metadata.num_rows)
        self.is_local = "image_row" in self._file.schema_arrow.names
        self.metadata = arrow.metadata_of(self._file.schema_arrow)
        self.spans = arrow.spans_of(self._file.schema_arrow)

    @cached_property
    def _starts(self) -> Ints:
        """Return the first row of each image, and the number of rows at the end; (images + 1,)."""
        if not self.is_local:
            return np.arange(self.rows + 1, dtype=np.int64)
        numbers = self._file.read(columns=["image_row"]).column(0).to_numpy()
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        return np.append(starts, self.rows).astype(np.int64)

    def vectors(self) -> Floats:
        """Return every descriptor (n, d) as float32."""
        return np.concatenate([np.zeros((0, self.dim), np.float32), *self.batches(1 << 16)])

    def batches(self, rows: int) -> Iterator[Floats]:
        """Yield descriptors (≤ rows, d) as float32, in order."""
        for vectors, _ in self.numbered(rows):
            yield vectors

    def numbered(self, rows: int) -> Iterator[tuple[Floats, Ints]]:
        """Yield descriptors (≤ rows, d) as float32 with the numbers (≤ rows,) of their images, in order."""
        start = 0
        for part in self._file.iter_batches(
            batch_size=rows, columns=["descriptor", *(["image_row"] if self.is_local else [])]
        ):
            end = start + part.num_rows
            numbers = part["image_row"].to_numpy() if self.is_local else np.arange(start, end)
            yield self._matrix(part["descriptor"]), numbers.astype(np.int64)
            start = end

    def batch(self) -> DescriptorBatch:
        """Return every descriptor, with what is known of its place, and the local ones that are kept beside."""
        batch = self._batch(self._file.read(columns=self._described))
        if not self.local_dim:
            return batch
        kept = [self.take_local(image) for image in range(self.rows)]
        return replace(batch, local=DescriptorBatch.joined(kept, self.local_dim))

    @property
    def _described(self) -> list[str]:
        return ["descriptor", *(["image_row", "box", "scale", "score"] if self.is_local else [])]

    def _batch(self, table: pa.Table) -> DescriptorBatch:
        vectors = self._matrix(table["descriptor"].combine_chunks())
        if not self.is_local:
            return DescriptorBatch.of_images(vectors)
        return DescriptorBatch(
            vectors=vectors,
            image_row=table["image_row"].to_numpy().astype(np.int64),
            boxes=table["box"].combine_chunks().flatten().to_numpy().reshape(-1, 4),
            scales=table["scale"].to_numpy(),
            scores=table["score"].to_numpy(),
        )

    def whole(self) -> pa.Table:
        """Return every column, with the footer's metadata."""
        return self._file.read()

    def keys(self) -> list[str]:
        """Return the keys of the images in order."""
        return list(self.columns(["key"]).column(0).to_pylist())

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Return some columns of the images, in order, without reading the others."""
        table = self._file.read(columns=list(names))
        return table.take(pa.array(self._starts[:-1])) if self.is_local else table

    def images(self) -> list[ImageRow]:
        """Return what is known of the images beside descriptors, in order."""
        return self._images(self.columns([*IMAGE, *self.spans, *self.metadata]))

    def take_images(self, images: Ints) -> list[ImageRow]:
        """Return the same of the given images; see `take`."""
        return self._images(self.take(images, [*IMAGE, *self.spans, *self.metadata]))

    def _images(self, table: pa.Table) -> list[ImageRow]:
        rows = table.to_pylist()
        known = [{name: row[name] for name in self.metadata} for row in rows]
        return [
            ImageRow(**{name: row[name] for name in IMAGE}, metadata=metadata, span=arrow.span_of(row, self.spans))
            for row, metadata in zip(rows, known, strict=True)
        ]

    def rows_of(self, images: Ints) -> Ints:
        """Return the rows of some images, sorted."""
        marks = np.zeros(len(self._starts) - 1, bool)
        marks[images] = True
        return np.flatnonzero(np.repeat(marks, np.diff(self._starts))).astype(np.int64)

    def take(self, images: Ints, columns: Sequence[str]) -> pa.Table:
        """Return some columns of the given images (any order, repeats allowed), reading only their row groups."""
        return self._rows(self._starts[images] if self.is_local else images, columns)

    def _rows(self, rows: Ints, columns: Sequence[str]) -> pa.Table:
        size = self._file.metadata.row_group(0).num_rows if self.rows else 1
        groups, offsets = np.unique(rows // size, return_inverse=True)
        parts = [self._group(int(group), tuple(columns)) for group in groups]
        starts = np.concatenate([[0], np.cumsum([part.num_rows for part in parts])])
        return pa.concat_tables(parts).take(pa.array(starts[offsets] + rows % size))

    def _group(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        def read() -> pa.Table:
            return self._file.read_row_group(group, columns=list(columns))

        small = not {"descriptor", "local"} & set(columns)
        return self._kept((self.name, group, columns), read) if self._kept is not None and small else read()

    def take_vectors(self, rows: Ints) -> Floats:
        """Return the descriptors (len(rows), d) of the given rows as float32."""
        if len(rows) == 0:
            return np.zeros((0, self.dim), np.float32)
        return self._matrix(self._rows(rows, ["descriptor"]).column(0).combine_chunks())

    def take_local(self, image: int) -> DescriptorBatch:
        """Return the local descriptors of an image: its rows, or those that are kept beside its global one."""
        if self.is_local:
            rows = np.arange(self._starts[image], self._starts[image + 1])
            return self._batch(self._rows(rows, self._described)).of(image)
        if not self.local_dim:
            raise IntegrityError(self.name, "keeps no local descriptors")
        names = ("local_boxes", "local_scales", "local_scores")
        table = self._rows(np.array([image]), ["local", *names])
        vectors = np.frombuffer(table["local"][0].as_py(), np.float16).astype(np.float32).reshape(-1, self.local_dim)
        boxes, scales, scores = (table[name][0].values.to_numpy() for name in names)
        return DescriptorBatch(
            vectors=vectors,
            image_row=np.zeros(len(vectors), np.int64),
            boxes=boxes.reshape(-1, 4),
            scales=scales,
            scores=scores,
        )

    def _matrix(self, column: Any) -> Floats:
        return arrow.decoded(column, self.dim, self.dtype)
