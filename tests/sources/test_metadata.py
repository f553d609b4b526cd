"""Metadata of sources: columns of tables, and the members beside images in tar archives."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.core.errors import ShardError
from pipeline.core.types import Image, Reject, Shard
from pipeline.sources import CarryingSpec
from pipeline.sources._groups import GROUP_BYTES, SIDE_BYTES, Side, grouped
from pipeline.sources.arrow import Spec as ArrowSpec
from pipeline.sources.parquet import Spec as ParquetSpec
from pipeline.sources.tar import Spec as TarSpec
from tests.builders import tar_bytes

DECLARED = {"license": "string", "year": "int64"}


def read(spec: CarryingSpec, folder: Path) -> list[Image | Reject]:
    source = spec.open(str(folder))
    shards = [Shard(id="1", uri="", bytes=0, etag="", entries=(entry,)) for entry in source.listing()]
    return [item for shard in shards for item in source.images(shard)]


def told(items: Sequence[Image | Reject]) -> dict[str, Any]:
    return {item.key.partition("/")[2]: dict(item.metadata) for item in items if isinstance(item, Image)}


def from_tar(folder: Path, files: dict[str, bytes], **declared: str) -> dict[str, Any]:
    (folder / "a.tar").write_bytes(tar_bytes(files))
    return told(read(TarSpec(metadata=declared or DECLARED), folder))


SIDE = json.dumps({"license": "cc0", "year": 2016, "unknown": [1]}).encode()
KNOWN = {"license": "cc0", "year": 2016}
NOTHING = {"license": None, "year": None}


def test_json_before_or_after_the_image_gives_its_fields(tmp_path: Path) -> None:
    assert from_tar(tmp_path, {"x.jpg": b"1", "x.json": SIDE, "y.json": SIDE, "y.jpg": b"2", "z.jpg": b"3"}) == {
        "x.jpg": KNOWN,
        "y.jpg": KNOWN,
        "z.jpg": NOTHING,
    }


def test_a_group_goes_by_its_folder_and_the_name_up_to_the_first_dot(tmp_path: Path) -> None:
    files = {
        "a/x.left.jpg": b"1",
        "a/x.right.PNG": b"2",
        "a/x.JSON": SIDE,
        "b/x.jpg": b"3",
        "a/x.y.json": SIDE,
        ".jpg": b"4",
        ".json": SIDE,
    }
    assert from_tar(tmp_path, files) == {
        "a/x.left.jpg": KNOWN,
        "a/x.right.PNG": KNOWN,
        "b/x.jpg": NOTHING,
        ".jpg": NOTHING,
    }


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path, encoding: str) -> None:
    files = {
        "x.jpg": b"1",
        "x.txt": "un café".encode(encoding),
        "x.cls": "7".encode(encoding),
        "x.json": json.dumps({"license": "cc0"}).encode(encoding),
    }
    declared = {"txt": "string", "cls": "int64", "license": "string"}
    assert from_tar(tmp_path, files, **declared) == {"x.jpg": {"txt": "un café", "cls": 7, "license": "cc0"}}


def test_a_group_that_is_split_is_two(tmp_path: Path) -> None:
    files = {"x.jpg": b"1", "y.jpg": b"2", "x.json": SIDE, "z.json": SIDE, "x.png": b"3", "z.jpg": b"4"}
    assert set(map(str, from_tar(tmp_path, files).values())) == {str(NOTHING)}


def test_texts_and_classes_are_fields_of_these_names(tmp_path: Path) -> None:
    files = {"x.cls": b"7\n", "x.jpg": b"1", "x.txt": " a café\n".encode(), "x.json": b'{"txt": "other", "cls": 8}'}
    declared = {"caption": "string:txt", "label": "int64:cls", "cls": "string"}
    known = {"caption": "a café", "label": 7, "cls": "7"}
    assert from_tar(tmp_path, files, **declared) == {"x.jpg": known}
    assert from_tar(tmp_path, dict(reversed(files.items())), **declared) == {"x.jpg": known}
    assert from_tar(tmp_path, {"x.json": files["x.json"], "x.jpg": b"1"}, cls="int64") == {"x.jpg": {"cls": 8}}


def test_fields_lie_at_paths_or_have_dots_in_their_names(tmp_path: Path) -> None:
    body = {"place": {"city": "Rome", "at": {"lat": 41.9}}, "a.b": True, "taken": "2016-05-04T12:00:00+02:00"}
    declared = {"city": "string:place.city", "lat": "float64:place.at.lat", "flag": "bool:a.b", "taken": "timestamp"}
    assert from_tar(tmp_path, {"x.json": json.dumps(body).encode(), "x.jpg": b"1"}, **declared) == {
        "x.jpg": {"city": "Rome", "lat": 41.9, "flag": True, "taken": datetime(2016, 5, 4, 10)}
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\xff",
        b"{" * 100_000,
        b'{"year": ' + b"9" * 5000 + b"}",
        b'{"license": NaN}',
    ],
    ids=lambda data: repr(data[:12]),
)
def test_json_that_says_nothing_costs_no_image(tmp_path: Path, data: bytes) -> None:
    assert from_tar(tmp_path, {"x.json": data, "x.jpg": b"1", "y.json": SIDE, "y.jpg": b"2"}) == {
        "x.jpg": NOTHING,
        "y.jpg": KNOWN,
    }


def test_values_of_a_wrong_type_are_null(tmp_path: Path) -> None:
    side = b'{"license": ["a"], "year": "twenty"}'
    assert from_tar(tmp_path, {"x.json": side, "x.jpg": b"1"}) == {"x.jpg": {"license": '["a"]', "year": None}}


def test_side_members_are_read_up_to_a_bound(tmp_path: Path) -> None:
    huge = b'{"license": "cc0", "more": "' + b"x" * SIDE_BYTES + b'"}'
    text = "é".encode() * SIDE_BYTES
    found = from_tar(
        tmp_path,
        {"x.json": huge, "x.txt": b"a" + text, "x.jpg": b"1", "y.json": SIDE, "y.jpg": b"2"},
        license="string",
        txt="string",
    )
    assert found["x.jpg"]["license"] is None
    assert found["x.jpg"]["txt"] == "a" + "é" * 4095
    assert found["y.jpg"] == {"license": "cc0", "txt": None}


def test_a_text_that_is_not_utf8_is_null(tmp_path: Path) -> None:
    assert from_tar(tmp_path, {"x.txt": b"caf\xe9", "x.jpg": b"1"}, txt="string") == {"x.jpg": {"txt": None}}


def test_what_a_group_holds_is_bounded() -> None:
    part = Image(key="k", uri="u", data=bytes(GROUP_BYTES // 2))
    side = Side(suffix="json", data=SIDE, whole=True)
    drawn = 0

    def endless() -> Any:
        nonlocal drawn
        for number in range(20):
            drawn = number
            yield f"x.{number}.jpg", part
        yield "x.json", side
        yield "x.last.jpg", part

    items = grouped(endless(), TarSpec(metadata=DECLARED).columns)
    assert dict(next(items).metadata) == NOTHING  # type: ignore[union-attr]
    assert drawn <= 3
    assert dict(list(items)[-1].metadata) == KNOWN  # type: ignore[union-attr]


def test_links_beside_images_are_passed_over(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        link = tarfile.TarInfo("x.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
        image = tarfile.TarInfo("x.jpg")
        image.size = 1
        archive.addfile(image, io.BytesIO(b"1"))
    (tmp_path / "a.tar").write_bytes(out.getvalue())
    assert told(read(TarSpec(metadata=DECLARED), tmp_path)) == {"x.jpg": NOTHING}


def test_a_glob_that_takes_everything_leaves_side_members_to_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.jpg": b"1", "x.json": SIDE}))
    assert told(read(TarSpec(match="*", metadata=DECLARED), tmp_path)) == {"x.jpg": KNOWN}
    assert set(told(read(TarSpec(match="*"), tmp_path))) == {"x.jpg", "x.json"}


def test_images_before_a_fault_come_first_and_a_cut_side_member_is_a_fault(tmp_path: Path) -> None:
    whole = tar_bytes({"x.jpg": b"1", "y.jpg": b"2", "y.json": SIDE + b" " * 2000})
    (tmp_path / "a.tar").write_bytes(whole[: 4 * 512 + 700])
    source = TarSpec(metadata=DECLARED).open(str(tmp_path))
    (entry,) = source.listing()
    items = source.images(Shard(id="1", uri="", bytes=0, etag="", entries=(entry,)))
    assert [next(items).key for _ in range(2)] == ["a.tar/x.jpg", "a.tar/y.jpg"]
    with pytest.raises(ShardError):
        next(items)


IMAGES = pa.array([{"bytes": b"1", "path": "x"}, {"bytes": b"2", "path": "y"}, {"bytes": b"3", "path": "z"}])
TABLE = pa.table(
    {
        "image": IMAGES,
        "license": pa.array(["cc0", None, "by"]).dictionary_encode(),
        "year": pa.array([2016, 2017, None], pa.int16()),
        "taken": pa.array([1, None, 3], pa.timestamp("ns", "Europe/Rome")),
        "day": pa.array([date(2016, 5, 4), None, date(2017, 1, 1)]),
        "price": pa.array(["1.5", "free", None]),
        "place": pa.array([{"city": "Rome", "at": {"lat": 1.5}}, None, {"city": None, "at": None}]),
        "a.b": pa.array([True, False, None]),
        "tags": pa.array([["a"], [], None]),
        "half": pa.array([0.5, None, 2.0], pa.float16()),
        "score": pa.array([1, 2, 3], pa.uint64()),
    }
)
COLUMNS = {
    "license": "string",
    "year": "int64",
    "taken": "timestamp",
    "day": "timestamp",
    "price": "float64",
    "city": "string:place.city",
    "lat": "float64:place.at.lat",
    "flag": "bool:a.b",
    "tags": "string",
    "half": "float64",
    "rating": "int64:score",
    "name": "string:image.path",
}
ROWS: dict[str, list[Any]] = {
    "x": ["cc0", 2016, datetime(1970, 1, 1), datetime(2016, 5, 4), 1.5, "Rome", 1.5, True, '["a"]', 0.5, 1, "x"],
    "y": [None, 2017, None, None, None, None, None, False, "[]", None, 2, "y"],
    "z": ["by", None, datetime(1970, 1, 1), datetime(2017, 1, 1), None, None, None, None, None, 2.0, 3, "z"],
}


def in_parquet(folder: Path, table: pa.Table) -> None:
    pq.write_table(table, folder / "a.parquet")


def in_arrow(folder: Path, table: pa.Table) -> None:
    with pa.OSFile(str(folder / "a.arrow"), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)


TABLES = pytest.mark.parametrize(("spec", "write"), [(ParquetSpec, in_parquet), (ArrowSpec, in_arrow)])


@TABLES
def test_columns_of_any_type_become_the_declared_ones(tmp_path: Path, spec: Any, write: Any) -> None:
    write(tmp_path, TABLE)
    assert told(read(spec(metadata=COLUMNS), tmp_path)) == {
        key: dict(zip(COLUMNS, values, strict=True)) for key, values in ROWS.items()
    }


@TABLES
def test_a_missing_column_is_said_with_those_that_are_there(tmp_path: Path, spec: Any, write: Any) -> None:
    write(tmp_path, TABLE.select(["image", "year", "place"]))
    for path in ("licence", "place.country", "year.month", "place."):
        with pytest.raises(ShardError, match=rf"no column '{path}' of metadata, only image, year, place"):
            read(spec.model_construct(metadata={"x": f"string:{path}"}), tmp_path)


@TABLES
def test_without_metadata_columns_are_passed_over(tmp_path: Path, spec: Any, write: Any) -> None:
    write(tmp_path, TABLE)
    assert told(read(spec(), tmp_path)) == {"x": {}, "y": {}, "z": {}}


@TABLES
def test_a_column_may_name_images_and_be_metadata(tmp_path: Path, spec: Any, write: Any) -> None:
    write(tmp_path, pa.table({"image": IMAGES, "id": ["p", "q", "r"]}))
    found = told(read(spec(key_column="id", metadata={"id": "string"}), tmp_path))
    assert found == {"p": {"id": "p"}, "q": {"id": "q"}, "r": {"id": "r"}}


@pytest.mark.parametrize("kind", [TarSpec, ParquetSpec, ArrowSpec])
def test_settings_check_names_and_keep_their_order(kind: type[CarryingSpec]) -> None:
    with pytest.raises(ValidationError, match="have of their own"):
        kind(metadata={"uri": "string"})
    one, other = kind(metadata=DECLARED), kind(metadata=dict(reversed(DECLARED.items())))
    assert (one.fingerprint, list(one.metadata)) == (other.fingerprint, list(other.metadata))
    assert one.fingerprint != kind().fingerprint
    assert kind(metadata={}).fingerprint == kind().fingerprint
