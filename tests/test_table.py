from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import IntegrityError
from pipeline.core.metadata import Kind, Value
from pipeline.core.types import DescriptorBatch, DType, Reject
from pipeline.rejects import read_rejects, write_rejects
from pipeline.table import DescriptorReader, ImageRow, write_descriptors


def rows(n: int) -> list[ImageRow]:
    return [ImageRow(key=f"a/{i}.jpg", uri=f"s3://b/a/{i}.jpg", width=4, height=3, sha256="00" * 32) for i in range(n)]


def vectors(n: int, d: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_descriptor_file_gives_back_what_went_in(tmp_path: Path, dtype: DType) -> None:
    path, x = tmp_path / "d.parquet", vectors(2500)
    write_descriptors(path, rows(2500), DescriptorBatch.of_images(x), dtype=dtype, recipe="abc")
    reader = DescriptorReader(path)
    assert (reader.rows, reader.dim, reader.recipe) == (2500, 8, "abc")
    np.testing.assert_array_equal(
        reader.vectors(), x.astype(np.float16).astype(np.float32) if dtype == "float16" else x
    )
    assert reader.images() == rows(2500)
    assert reader.keys() == [row.key for row in rows(2500)]


def test_rows_are_read_in_any_order_and_more_than_once(tmp_path: Path) -> None:
    path, x = tmp_path / "d.parquet", vectors(2500)
    write_descriptors(path, rows(2500), DescriptorBatch.of_images(x), dtype="float32", recipe="abc")
    wanted = np.array([2499, 0, 1024, 1023, 0])
    np.testing.assert_array_equal(DescriptorReader(path).take_vectors(wanted), x[wanted])
    assert DescriptorReader(path).take(wanted, ["key"])["key"].to_pylist() == [f"a/{i}.jpg" for i in wanted]


def test_a_file_without_images_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    write_descriptors(path, [], DescriptorBatch.of_images(vectors(0)), dtype="float16", recipe="abc")
    assert DescriptorReader(path).vectors().shape == (0, 8)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_descriptors(
            tmp_path / name, rows(10), DescriptorBatch.of_images(vectors(10)), dtype="float16", recipe="abc"
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_pandas_and_duckdb_read_it_as_it_is(tmp_path: Path) -> None:
    path, x = tmp_path / "d.parquet", vectors(20)
    write_descriptors(path, rows(20), DescriptorBatch.of_images(x), dtype="float32", recipe="abc")
    frame = pd.read_parquet(path)
    np.testing.assert_array_equal(np.stack(frame["descriptor"].to_list()), x)
    found = duckdb.sql(f"select key, descriptor[1] from '{path}' where width = 4 order by key limit 1").fetchall()[0]
    assert found[0] == "a/0.jpg"
    assert found[1] == pytest.approx(float(x[0, 0]))


METADATA: dict[str, Kind] = {
    "license": "string",
    "open": "bool",
    "rating": "float64",
    "taken": "timestamp",
    "year": "int64",
}
TOLD: list[dict[str, Value]] = [
    {"license": "cc0", "open": True, "rating": 0.5, "taken": datetime(2016, 5, 4, 12), "year": 2016},
    {"license": None, "open": None, "rating": None, "taken": None, "year": None},
    {"license": "", "open": False, "rating": -1.0, "taken": datetime(1, 1, 1), "year": -(1 << 63)},
]


def told(n: int) -> list[ImageRow]:
    return [replace(row, metadata=TOLD[place % 3]) for place, row in enumerate(rows(n))]


@pytest.mark.parametrize("counts", [None, [3, 1, 1500, 7]], ids=["global", "local"])
def test_metadata_lies_in_columns_of_its_own(tmp_path: Path, counts: list[int] | None) -> None:
    path = tmp_path / "d.parquet"
    batch = DescriptorBatch.of_images(vectors(4)) if counts is None else local(counts)
    write_descriptors(path, told(4), batch, dtype="float16", recipe="abc", metadata=METADATA)
    reader = DescriptorReader(path)
    assert reader.metadata == METADATA
    assert reader.images() == told(4)
    assert reader.columns(["year", "key"]).to_pylist()[3] == {"year": 2016, "key": "a/3.jpg"}
    assert reader.take(np.array([2, 0]), ["year"])["year"].to_pylist() == [-(1 << 63), 2016]
    frame = pd.read_parquet(path)
    held = {"cc0": 2, "": 1} if counts is None else {"cc0": 10, "": 1500}
    assert frame["license"].value_counts().to_dict() == held
    assert frame["license"].isna().sum() == 1
    found = duckdb.sql(f"select distinct key from '{path}' where year > 2000 and open and taken > '2016-01-01'")
    assert sorted(found.fetchall()) == [("a/0.jpg",), ("a/3.jpg",)]


def test_a_file_without_metadata_says_nothing_of_it(tmp_path: Path) -> None:
    batch = DescriptorBatch.of_images(vectors(3))
    write_descriptors(tmp_path / "a", told(3), batch, dtype="float16", recipe="abc")
    write_descriptors(tmp_path / "b", rows(3), batch, dtype="float16", recipe="abc", metadata={})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    reader = DescriptorReader(tmp_path / "a")
    assert (reader.metadata, reader.images()) == ({}, rows(3))
    assert reader.whole().column_names == ["key", "uri", "width", "height", "sha256", "descriptor"]


def test_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(IntegrityError, match=r"d\.parquet"):
        DescriptorReader(path)
    pd.DataFrame({"key": ["a"]}).to_parquet(path)
    with pytest.raises(IntegrityError, match="format"):
        DescriptorReader(path)


def test_rejects_keep_key_reason_and_size(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    rejects = [
        Reject(key="a.jpg", uri="u#a.jpg", reason="truncated", bytes=12),
        Reject(key="b.jpg", uri="u#b.jpg", reason="same key", bytes=0, status="duplicate"),
    ]
    write_rejects(path, rejects)
    assert read_rejects(path) == rejects


def local(counts: list[int], d: int = 8) -> DescriptorBatch:
    total = sum(counts)
    random = np.random.default_rng(1)
    return DescriptorBatch(
        vectors=vectors(total, d),
        image_row=np.repeat(np.arange(len(counts)), counts).astype(np.int64),
        boxes=random.random((total, 4), np.float32),
        scales=random.random(total, np.float32),
        scores=random.random(total, np.float32),
    )


def test_local_descriptors_come_back_by_image(tmp_path: Path) -> None:
    path, counts = tmp_path / "d.parquet", [3, 1, 1500, 7]
    batch = local(counts)
    write_descriptors(path, rows(4), batch, dtype="float32", recipe="abc")
    reader = DescriptorReader(path)
    assert (reader.rows, reader.is_local, len(reader.keys())) == (1511, True, 4)
    assert reader.images() == rows(4)
    again = reader.batch()
    for name in ("vectors", "image_row", "boxes", "scales", "scores"):
        np.testing.assert_array_equal(getattr(again, name), getattr(batch, name))
    for image in range(4):
        one = reader.take_local(image)
        np.testing.assert_array_equal(one.vectors, batch.of(image).vectors)
        np.testing.assert_array_equal(one.boxes, batch.of(image).boxes)
    assert reader.take(np.array([3, 0, 3]), ["key"])["key"].to_pylist() == ["a/3.jpg", "a/0.jpg", "a/3.jpg"]
    assert reader.rows_of(np.array([1, 3])).tolist() == [3, *range(1504, 1511)]
    numbers = np.concatenate([images for _, images in reader.numbered(100)])
    np.testing.assert_array_equal(numbers, batch.image_row)


def test_kept_local_descriptors_lie_beside_the_vector(tmp_path: Path) -> None:
    path, counts = tmp_path / "d.parquet", [5, 2, 40]
    kept = local(counts)
    batch = DescriptorBatch(vectors=vectors(3), image_row=np.arange(3), local=kept)
    write_descriptors(path, rows(3), batch, dtype="float16", recipe="abc")
    reader = DescriptorReader(path)
    assert (reader.rows, reader.is_local, reader.local_dim) == (3, False, 8)
    again = reader.batch().local
    assert again is not None
    np.testing.assert_array_equal(again.vectors, kept.vectors.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(again.boxes, kept.boxes)
    frame = pd.read_parquet(path)
    assert [len(values) for values in frame["local_scores"]] == counts


@pytest.mark.parametrize("d", [8, 13])
def test_codes_are_signs(tmp_path: Path, d: int) -> None:
    path, x = tmp_path / "d.parquet", vectors(20, d)
    x[0, 0] = 0.0
    write_descriptors(path, rows(20), DescriptorBatch.of_images(x), dtype="binary", recipe="abc")
    reader = DescriptorReader(path)
    expected = np.where(x >= 0, 1, -1) / np.sqrt(d)
    np.testing.assert_allclose(reader.vectors(), expected, rtol=1e-6)
    np.testing.assert_allclose(reader.take_vectors(np.array([7, 0])), expected[[7, 0]], rtol=1e-6)
