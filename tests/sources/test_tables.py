"""Arrow files and NumPy matrices: what is broken in them is said."""

from __future__ import annotations

import errno
import tracemalloc
from codecs import BOM_UTF8
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pytest

from jobs.recipe import RecipeOptions
from pipeline.core.errors import ShardError, UserError
from pipeline.core.local import LocalStore
from pipeline.core.types import Image, Shard
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.search.originals import Originals
from pipeline.sources import SourceSpec
from pipeline.sources._containers import Containers
from pipeline.sources.arrow import ArrowSource
from pipeline.sources.arrow import Spec as ArrowSpec
from pipeline.sources.npy import BLOCK_BYTES
from pipeline.sources.npy import Spec as NpySpec
from pipeline.sources.parquet import ParquetSource
from pipeline.sources.parquet import Spec as ParquetSpec
from tests.builders import run


def items(spec: SourceSpec, folder: Path) -> list[Image]:
    source = spec.open(str(folder))
    found = []
    for entry in source.listing():
        shard = Shard(id="x", uri="", bytes=entry.size, etag=entry.etag, entries=(entry,))
        found += [item for item in source.images(shard) if isinstance(item, Image)]
    return found


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, ">f4"])
def test_every_type_of_number_becomes_float32(tmp_path: Path, dtype: object) -> None:
    x = np.arange(5000 * 3).reshape(5000, 3).astype(dtype)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", x)
    found = items(NpySpec(), tmp_path)
    np.testing.assert_array_equal(np.stack([np.frombuffer(i.data, "<f4") for i in found]), x.astype(np.float32))
    assert found[4999].key == "x.npy/000004999"


def test_matrices_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(ShardError, match=match):
            items(NpySpec(), tmp_path)

    path = tmp_path / "x.npy"
    np.save(path, np.zeros(5, np.float32))
    refused("no matrix")
    np.save(path, np.asfortranarray(np.zeros((5, 3), np.float32)))
    refused("C order")
    np.save(path, np.array([["a", "b"]]))
    refused("not numbers")
    np.save(path, np.array([[{}]], dtype=object), allow_pickle=True)
    refused("not numbers")
    path.write_bytes(b"nothing")
    refused("no sound")
    np.save(path, np.zeros((5, 3), np.float32))
    path.write_bytes(path.read_bytes()[:-4])
    refused("truncated")
    np.save(path, np.zeros((5, 3), np.float32))
    (tmp_path / "x.txt").write_text("one\ntwo\n")
    refused("5 rows, and x.txt has 2 names")


def test_a_stream_that_breaks_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    table = pa.table({"vector": pa.array(np.ones((100, 4)).tolist(), pa.list_(pa.float32()))})
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    assert len(items(ArrowSpec(), tmp_path)) == 100
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(ShardError, match="no end"):
        items(ArrowSpec(), tmp_path)
    path.write_bytes(b"nothing at all")
    with pytest.raises(ShardError):
        items(ArrowSpec(), tmp_path)
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    assert len(items(ArrowSpec(), tmp_path)) == 100


def test_a_matrix_and_its_names_are_indexed(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    source = tmp_path / "src"
    source.mkdir()
    np.save(source / "x.npy", x)
    (source / "x.txt").write_text("\n".join(f"{n}.jpg" for n in range(60)))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[extractor]\nkind = "precomputed"\ndim = 12\n[indexes.flat]\n')
    run(source, tmp_path / "root", recipe=RecipeOptions(recipe=str(recipe)))
    with SearchIndex.open(str(tmp_path / "root")) as index:
        query = x[7:8] / np.linalg.norm(x[7])
        assert index.search(query, SearchOptions(k=1))[0][0].key == "x.npy/7.jpg"


def test_names_of_a_matrix_that_repeat_get_their_row_and_are_found_again(tmp_path: Path) -> None:
    x = np.arange(5 * 3).reshape(5, 3).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "x.txt").write_bytes(BOM_UTF8 + b"a.jpg\r\nb.jpg\r\na.jpg\r\n\r\na.jpg#2\r\n\r\n")
    found = items(NpySpec(), tmp_path)
    assert [item.key for item in found] == [
        "x.npy/a.jpg#0", "x.npy/b.jpg", "x.npy/a.jpg#2#2", "x.npy/", "x.npy/a.jpg#2",
    ]  # fmt: skip
    originals = Originals(NpySpec(), str(tmp_path))
    for item, vector in zip(found, x, strict=True):
        assert originals.read(item.key, item.uri) == vector.tobytes()
    with pytest.raises(UserError, match="no longer there"):
        originals.read("x.npy/c.jpg", found[1].uri)
    (tmp_path / "x.txt").write_bytes("a\nb\nc\nd\ne\n".encode("utf-16"))
    with pytest.raises(ShardError, match=r"x\.txt.*UTF-16.*save it as UTF-8"):
        items(NpySpec(), tmp_path)


def test_wide_rows_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 1 << 16))
    np.save(tmp_path / "x.npy", x)
    source = NpySpec().open(str(tmp_path))
    (entry,) = source.listing()
    tracemalloc.start()
    for item in source.images(Shard(id="x", uri="", bytes=entry.size, etag=entry.etag, entries=(entry,))):
        assert isinstance(item, Image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * BLOCK_BYTES


@pytest.mark.parametrize(
    ("key", "uri", "numbered"),
    [
        ("a.parquet/000000004", "s3://b/a.parquet#row=4", True),
        ("a.parquet/000000004#1", "s3://b/a.parquet#row=4&item=1", True),
        ("a.parquet/cat.jpg#4", "s3://b/a.parquet#row=4", True),
        ("a.parquet/cat.jpg#4#0", "s3://b/a.parquet#row=4&item=0", True),
        ("a.parquet/cat.jpg", "s3://b/a.parquet#row=4", False),
        ("a.parquet/cat.jpg#0", "s3://b/a.parquet#row=4&item=0", True),
        ("a.parquet/000000004", "s3://b/a.parquet#row=5", False),
        ("photos/000000004", "s3://b/photos/000000004", False),
        ("photos/cat#4", "s3://b/photos/cat#4", False),
    ],
)
def test_a_key_that_is_a_row_number_is_known_as_such(key: str, uri: str, numbered: bool) -> None:
    assert NpySpec().key_is_row(key, uri) == numbered


@pytest.mark.parametrize("data", [b"", b"abc", b"\xff\xff\xff\xff"])
def test_an_arrow_file_shorter_than_its_end_is_truncated(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.arrow").write_bytes(data)
    with pytest.raises(ShardError, match="truncated: the stream has no end"):
        items(ArrowSpec(), tmp_path)


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), pa.ArrowMemoryError("malloc failed")])
def test_errors_of_reading_do_not_make_a_table_unsound(tmp_path: Path, kind: str, error: Exception) -> None:
    class Failing(LocalStore):
        def open(self, name: str) -> BinaryIO:
            raise error

    (tmp_path / f"x.{kind}").write_bytes(b"any")
    containers = Containers(str(tmp_path), f".{kind}")
    containers.store = Failing(str(tmp_path))
    source = ArrowSource(ArrowSpec(), containers) if kind == "arrow" else ParquetSource(ParquetSpec(), containers)
    entry = containers.store.stat(f"x.{kind}")
    shard = Shard(id="x", uri="", bytes=entry.size, etag=entry.etag, entries=(entry,))
    with pytest.raises(type(error)):
        list(source.images(shard))
    with pytest.raises(type(error)):
        source.pick_from(entry, f"x.{kind}/000000000", f"/x.{kind}#row=0")
