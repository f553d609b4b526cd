"""Where images lie in archives: columns that a file may have, and reads of nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core.columns import span_columns, span_of, spans_of
from pipeline.core.ranges import RangeFile, read_at
from pipeline.core.types import DescriptorBatch
from pipeline.table import DescriptorReader, ImageRow, write_descriptors

SPANS = [(512, 100), None, (9 << 40, 7)]


def rows() -> list[ImageRow]:
    return [
        ImageRow(key=f"{n}", uri="u", width=4, height=3, sha256="00" * 32, span=span) for n, span in enumerate(SPANS)
    ]


def test_spans_survive_a_file(tmp_path: Path) -> None:
    batch = DescriptorBatch.of_images(np.ones((3, 4), np.float32))
    write_descriptors(tmp_path / "a", rows(), batch, dtype="float16", recipe="r")
    reader = DescriptorReader(tmp_path / "a")
    assert reader.whole().column_names[-2:] == ["container_offset", "container_bytes"]
    assert [row.span for row in reader.images()] == SPANS
    assert [row.span for row in reader.take_images(np.array([2, 0]))] == [SPANS[2], SPANS[0]]


def test_spans_of_images_with_local_descriptors_survive_a_file(tmp_path: Path) -> None:
    places = np.array([0, 0, 2])
    batch = DescriptorBatch(
        vectors=np.ones((3, 4), np.float32),
        image_row=places,
        boxes=np.ones((3, 4), np.float32),
        scales=np.ones(3, np.float32),
        scores=np.ones(3, np.float32),
    )
    write_descriptors(tmp_path / "a", rows(), batch, dtype="float16", recipe="r")
    assert [row.span for row in DescriptorReader(tmp_path / "a").images()] == [SPANS[0], SPANS[2]]


def test_files_without_spans_are_as_they_were() -> None:
    assert span_columns([None, None], {}) == {}
    assert span_columns([(1, 2)], {"Container_Bytes": "string"}) == {}
    assert spans_of(pa.schema([("key", pa.string())])) == ()
    assert span_of({}, ()) is None


def test_bytes_at_a_place_are_read_alone() -> None:
    data = bytes(range(256)) * 100
    asked: list[tuple[int, int]] = []

    def fetch(start: int, end: int) -> bytes:
        asked.append((start, end))
        return data[start:end]

    distant = RangeFile(fetch, len(data), block=1000)
    for file in (distant, io.BytesIO(data)):
        assert read_at(file, 5000, 10) == data[5000:5010]  # type: ignore[arg-type]
        assert read_at(file, len(data) - 3, 10) == data[-3:]  # type: ignore[arg-type]
        assert read_at(file, len(data) + 3, 10) == b""  # type: ignore[arg-type]
    assert asked == [(5000, 5010), (len(data) - 3, len(data))]
    assert distant.tell() == 0
