"""Places within places, local and remote; listings without what lies in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.places import beneath, outside
from pipeline.core.types import Entry


def names(base: str, place: str, *paths: str) -> list[str]:
    entries = [Entry(path=path, size=1, etag="e") for path in paths]
    return [entry.path for entry in outside(entries, base, place)]


@pytest.mark.parametrize(
    ("inner", "outer", "path"),
    [
        ("s3://b/p/index", "s3://b/p", "index"),
        ("s3://b/p", "s3://b/p/", ""),
        ("s3://b/p", "s3://b", "p"),
        ("s3://b/pictures", "s3://b/p", None),
        ("s3://b/p", "s3://b/p/index", None),
        ("s3://b/p/x?endpoint=http://one:1", "s3://b/p?endpoint=http://other:1", None),
        ("s3://b/p/x?endpoint=http://one:1", "s3://b/p", "x"),
        ("/data/index", "/data", "index"),
        ("/data/index", "s3://data", None),
        ("file:///data/index", "/data/", "index"),
    ],
)
def test_a_place_lies_in_another_by_whole_parts_of_its_path(inner: str, outer: str, path: str | None) -> None:
    assert beneath(inner, outer) == path


def test_a_prefix_is_left_out_whole_and_its_namesakes_are_not() -> None:
    paths = ("a.jpg", "index", "index/a.parquet", "index/b/c.json", "index.jpg", "indexes/a.jpg")
    assert names("s3://b/p", "s3://b/p/index", *paths) == ["a.jpg", "index.jpg", "indexes/a.jpg"]
    assert names("s3://b/p", "s3://b/other", *paths) == list(paths)
    assert names("s3://b/p", "", *paths) == list(paths)
    assert names("s3://b/p", "s3://b", *paths) == []


def test_a_folder_is_left_out_by_whatever_link_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "root" / "descriptors").mkdir(parents=True)
    (tmp_path / "src" / "link").symlink_to(tmp_path / "root")
    base, root = str(tmp_path / "src"), str(tmp_path / "root")
    assert names(base, root, "a.jpg", "link/x.parquet", "link/descriptors/y.parquet", "z/a.jpg") == ["a.jpg", "z/a.jpg"]


def test_relative_places_are_where_the_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert beneath("data/index", "data") == "index"
    assert names("data", "data/index", "a.jpg", "index/a.jpg") == ["a.jpg"]
