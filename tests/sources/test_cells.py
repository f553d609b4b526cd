"""Rows of tables, in Parquet and both Arrow formats: every layout gives its images, under keys that find them again."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.types import Image, Reject, Shard
from pipeline.search.originals import Originals
from pipeline.sources import SourceSpec, arrow, parquet
from pipeline.sources.parquet import BATCH_BYTES, BATCH_ROWS, batch_rows

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
DATA = [bytes([n]) * (50 + 10 * n) for n in range(6)]
Write = Callable[[Path, pa.Table], SourceSpec]


def to_parquet(folder: Path, table: pa.Table) -> SourceSpec:
    pq.write_table(table, folder / "t.parquet", row_group_size=2)
    return parquet.Spec()


def to_stream(folder: Path, table: pa.Table) -> SourceSpec:
    with pa.OSFile(str(folder / "t.arrow"), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return arrow.Spec()


def to_file(folder: Path, table: pa.Table) -> SourceSpec:
    with pa.OSFile(str(folder / "t.arrow"), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return arrow.Spec()


@pytest.fixture(params=[to_parquet, to_stream, to_file])
def write(request: pytest.FixtureRequest) -> Write:
    found: Write = request.param
    return found


def read(spec: SourceSpec, folder: Path) -> list[Image | Reject]:
    source = spec.open(str(folder))
    (entry,) = source.listing()
    return list(source.images(Shard(id="", uri="", bytes=0, etag="", entries=(entry,))))


def names(items: list[Image | Reject]) -> list[str]:
    return [item.key.partition("/")[2] for item in items]


def rows_of(values: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.table({"image": pa.array(values, STRUCT)})


LAYOUTS: dict[str, pa.Array] = {
    "struct": pa.array([{"bytes": data, "path": "same.jpg"} for data in DATA], STRUCT),
    "other fields": pa.array(
        [{"name": f"{n}.jpg", "data": data} for n, data in enumerate(DATA)],
        pa.struct([("name", pa.string()), ("data", pa.large_binary())]),
    ),
    "binary view": pa.array(DATA, pa.binary_view()),
    "dictionary": pa.array(DATA, pa.binary()).dictionary_encode(),
    "fixed size": pa.array([data.ljust(200, b"\0") for data in DATA], pa.binary(200)),
    "list of structs": pa.array(
        [
            [{"bytes": data, "path": "same.jpg"} for data in DATA[:4]],
            [],
            [{"bytes": DATA[4], "path": None}, {"bytes": DATA[5], "path": "x"}],
        ],
        pa.list_(STRUCT),
    ),
    "large list of bytes": pa.array([DATA[:1], DATA[1:4], [], DATA[4:]], pa.large_list(pa.binary())),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_image_comes_once_and_is_found_again(write: Write, tmp_path: Path, layout: str) -> None:
    spec = write(tmp_path, pa.table({"image": LAYOUTS[layout], "label": np.arange(len(LAYOUTS[layout]))}))
    found = read(spec, tmp_path)
    padded = [data.ljust(200, b"\0") for data in DATA] if layout == "fixed size" else DATA
    assert [item.data for item in found if isinstance(item, Image)] == padded
    assert len(set(names(found))) == len(DATA)
    originals = Originals(spec, str(tmp_path))
    for item in found:
        assert isinstance(item, Image)
        assert originals.read(item.key, item.uri) == item.data
    assert found == read(spec, tmp_path), "keys are the same each time"


def test_names_that_a_file_repeats_get_their_row(write: Write, tmp_path: Path) -> None:
    paths = ["0.jpg", "1.jpg", "0.jpg", None, "000000003", "1.jpg", "2.jpg"]
    spec = write(tmp_path, rows_of([{"bytes": b"%d" % n, "path": path} for n, path in enumerate(paths)]))
    assert names(read(spec, tmp_path)) == [
        "0.jpg#0", "1.jpg#1", "0.jpg#2", "000000003#3", "000000003#4", "1.jpg#5", "2.jpg",
    ]  # fmt: skip
    # An earlier release called the first of them by the name alone.
    suffix = next(tmp_path.iterdir()).name
    assert Originals(spec, str(tmp_path)).read(f"{suffix}/0.jpg", f"{tmp_path}/{suffix}#row=0") == b"0"


def test_items_of_lists_are_numbered_within_their_row(write: Write, tmp_path: Path) -> None:
    cells = [[b"a", None], None, [], [b"b"]]
    table = pa.table({"images": pa.array(cells, pa.list_(pa.binary())), "id": ["x", "y", "z", "x"]})
    spec = write(tmp_path, table)
    first, null, row, last = read(spec, tmp_path)
    assert names([first, null, row, last]) == ["000000000#0", "000000000#1", "000000001", "000000003#0"]
    assert isinstance(null, Reject)
    assert isinstance(row, Reject)
    assert (null.reason, row.reason) == ("is null", "is null")
    named = read(type(spec)(key_column="id"), tmp_path)  # type: ignore[call-arg]
    assert names(named) == ["x#0#0", "x#0#1", "y", "x#3#0"]


def test_names_of_any_bytes_end_no_file(write: Write, tmp_path: Path) -> None:
    raw = [b"a\xff.jpg", b"a\\xff.jpg", "\u00e9\n.jpg".encode(), b"nul\0.jpg"]
    # Arrow does not check what others have written: such files exist.
    paths = pa.StringArray.from_buffers(4, *pa.array(raw, pa.binary()).buffers()[1:])
    column = pa.StructArray.from_arrays([pa.array(DATA[:4]), paths], names=["bytes", "path"])
    spec = write(tmp_path, pa.table({"image": column, "about": paths}))
    expected = [r"a\xff.jpg#0", r"a\xff.jpg#1", "\u00e9\n.jpg", "nul\0.jpg"]
    assert names(read(spec, tmp_path)) == expected
    carrying = type(spec)(key_column="about", metadata={"about": "string"})  # type: ignore[call-arg]
    found = read(carrying, tmp_path)
    assert names(found) == expected
    assert [item.metadata["about"] is None for item in found if isinstance(item, Image)] == [True, False, False, False]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float64(), pa.int8(), pa.uint8(), pa.int64()])
@pytest.mark.parametrize("shape", ["list", "large list", "fixed list", "tensor"])
def test_vectors_of_every_type_become_float32(write: Write, tmp_path: Path, kind: pa.DataType, shape: str) -> None:
    x = np.arange(21).reshape(7, 3).astype(kind.to_pandas_dtype())
    types = {"list": pa.list_(kind), "large list": pa.large_list(kind), "fixed list": pa.list_(kind, 3)}
    if shape == "tensor":
        storage = pa.array([*x.tolist()], pa.list_(kind, 3))
        column: pa.Array = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(kind, (3,)), storage)
    else:
        column = pa.array([*x.tolist(), None], types[shape])
    spec = write(tmp_path, pa.table({"v": column}))
    found = read(type(spec)(image_column="v"), tmp_path)  # type: ignore[call-arg]
    vectors = [np.frombuffer(item.data, "<f4") for item in found if isinstance(item, Image)]
    np.testing.assert_array_equal(np.stack(vectors), x.astype(np.float32))
    assert [item.reason for item in found if isinstance(item, Reject)] == ([] if shape == "tensor" else ["is null"])


def test_memory_is_that_of_a_row_group(write: Write, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    cells = [{"bytes": generator.bytes(1 << 20), "path": f"{n}.jpg"} for n in range(32)]
    spec = write(tmp_path, rows_of(cells))
    del cells
    source = spec.open(str(tmp_path))
    (entry,) = source.listing()
    before, most = pa.total_allocated_bytes(), 0
    tracemalloc.start()
    for item in source.images(Shard(id="", uri="", bytes=0, etag="", entries=(entry,))):
        assert isinstance(item, Image)
        most = max(most, pa.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak + most < 16 << 20, "of 32 MiB in groups of 2"


def test_batches_are_cut_by_bytes(tmp_path: Path) -> None:
    large = [{"bytes": bytes(BATCH_BYTES // 4), "path": "x"}] * 8
    pq.write_table(rows_of(large), tmp_path / "large.parquet", use_dictionary=False)
    assert batch_rows(pq.read_metadata(tmp_path / "large.parquet"), ["image"], [0]) in (3, 4)
    pq.write_table(rows_of([{"bytes": b"x", "path": "x"}] * 8), tmp_path / "small.parquet")
    assert batch_rows(pq.read_metadata(tmp_path / "small.parquet"), ["image"], [0]) == BATCH_ROWS
