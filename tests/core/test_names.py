from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.names import absolute_location, parse_location, same_place


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
