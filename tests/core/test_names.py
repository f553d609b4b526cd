from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.core.names import (
    absolute_location,
    escaped,
    flat_name,
    parent_location,
    parse_location,
    same_place,
    unescaped,
)

PIECES = st.sampled_from([b"\\", b"x", b"5c", b"e9", b"\xe9", b"\xc3", b"\xa9", b"\xc3\xa9", b"\\xe9", b"\\x5c", b"a"])


def test_a_recorded_location_means_the_same_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "src").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path / "a" / "src")
    spellings = ("a/src", "./a/src/", "a/../a/src", here, f"file://{here}", f"{here}/")
    assert {absolute_location(text) for text in spellings} == {here}
    assert absolute_location("file:///a%20b/c%23d") == "/a b/c#d"


def test_dots_behind_a_link_are_left_to_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    monkeypatch.chdir(tmp_path)
    assert Path(absolute_location("link/../src")).resolve() == tmp_path / "far" / "src"


def test_a_recorded_location_says_how_its_service_is_reached() -> None:
    location = "s3://bucket/x?anonymous=true&endpoint=http://minio:9000&profile=a%26b"
    assert absolute_location(location) == location
    assert parse_location(absolute_location(location)) == parse_location(location)
    assert absolute_location("s3://bucket/x/") == "s3://bucket/x"


@pytest.mark.parametrize(
    "location",
    [
        "s3://bucket/x?endpoint=http://host/%3FX-Amz-Signature=tellme",
        "s3://bucket/x?endpoint=http://host/?token=tellme",
        "s3://bucket/x?endpoint=http://host/%23tellme",
        "s3://bucket/x?endpoint=http://user:tellme%40host",
        "s3://user:tellme@bucket/x",
        "s3://bucket/x?X-Amz-Signature=tellme",
    ],
)
def test_no_secret_gets_into_a_recorded_location(location: str) -> None:
    with pytest.raises(UserError) as caught:
        absolute_location(location)
    assert "tellme" not in str(caught.value)


def test_places_are_compared_however_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "src")
    monkeypatch.chdir(tmp_path)
    for other in ("src", "./src/", "src/../src", "link", f"file://{tmp_path}/src"):
        assert same_place(str(tmp_path / "src"), other)
    assert not same_place("src", "src2")
    assert same_place("s3://b/x", "s3://b/x/?endpoint=http://minio:9000")
    assert not same_place("s3://b/x", "s3://b/y")
    assert not same_place("s3://b/x", "b/x")


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=12) | st.lists(PIECES, min_size=1, max_size=6).map(b"".join))
def test_every_file_name_has_a_name_that_leads_back_to_it(raw: bytes) -> None:
    name = escaped(os.fsdecode(raw))
    assert name.encode().decode() == name
    assert os.fsencode(unescaped(name)) == raw
    if raw.isascii() and b"\\" not in raw:
        assert name == raw.decode(), "ordinary names stay as they are"


@pytest.mark.parametrize("name", ["a.jpg", "é.jpg", "C:\\photos\\x.jpg", "\\x41.jpg", "a\\b", "\\xE9", "東京/\\n.png"])
def test_ordinary_names_keep_themselves(name: str) -> None:
    assert escaped(name) == name
    assert unescaped(name) == name


def test_a_colon_is_a_letter_where_no_url_is() -> None:
    for path in ("a::b", "/data/x::y/z", "./memory::z", "/data/a://b", "C:\\x"):
        assert parse_location(path).scheme == "file"
        assert parse_location(path).path == path
    assert parse_location("s3://bucket/a::b").path == "bucket/a::b"


@pytest.mark.parametrize(
    ("location", "parts"),
    [
        ("s3://bucket/a//b.tar", ("s3://bucket/a", "/b.tar")),
        ("s3://bucket//b.tar?region=x", ("s3://bucket?region=x", "/b.tar")),
        ("s3://bucket/a/b.tar", ("s3://bucket/a", "b.tar")),
        ("s3://bucket/a/../b.tar", ("s3://bucket/a/..", "b.tar")),
        ("s3://bucket", ("", "bucket")),
    ],
)
def test_the_folder_and_the_name_of_an_object_make_its_key_again(location: str, parts: tuple[str, str]) -> None:
    assert parent_location(location) == parts


@pytest.mark.parametrize("name", ["..", ".", "/../x", "a/b", "é" * 300, "a" * 300 + ".npy"])
def test_a_copy_of_an_object_has_a_file_name_of_its_own(name: str, tmp_path: Path) -> None:
    path = tmp_path / flat_name(name)
    assert path.resolve().parent == tmp_path.resolve()
    assert path.resolve() != tmp_path.resolve()
    path.write_bytes(b"")
    assert flat_name("artifacts/x.npy") == "artifacts_x.npy"
