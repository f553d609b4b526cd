"""The rule of deletions on its own: by key, by content, copies that stay, rows that move, restoring."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.publish import manifests
from pipeline.sources import SourceSpec
from pipeline.stages.deletions import (
    BY_CONTENT,
    BY_KEY,
    COPY,
    named,
    rule_of,
    table_of,
    with_copies,
    with_deletions,
    without_deletions,
)
from pipeline.stages.find_rows import FOUND

IS_ROW = SourceSpec().key_is_row


def deletion(key: str, sha256: str | None = "s", *, scope: str | None = BY_KEY, kept: Any = (), **more: Any) -> Any:
    row = {"key": key, "entry": key.partition("#")[0], "version": 2, "sha256": sha256, "scope": scope}
    return {**row, "kept": list(kept), **more}


def numbered(row: int) -> str:
    return f"p.parquet/{row:09d}"


def rows(*contents: str, start: int = 0) -> pa.Table:
    """Images of a file whose keys are row numbers."""
    images = [
        {"row": place, "key": numbered(row), "uri": f"/src/p.parquet#row={row}", "sha256": sha256}
        for place, (row, sha256) in enumerate(enumerate(contents, start=start))
    ]
    return pa.Table.from_pylist(images, schema=FOUND)


def files(**contents: str) -> pa.Table:
    """Images of a file whose keys are names."""
    images = [
        {"row": place, "key": key, "uri": f"/src/{key}", "sha256": sha256}
        for place, (key, sha256) in enumerate(contents.items())
    ]
    return pa.Table.from_pylist(images, schema=FOUND)


def deleted_rows(deletions: pa.Table, images: pa.Table, entry: str = "") -> list[int]:
    return [int(row) for row in rule_of(deletions, IS_ROW).judge(images, entry).rows]


@pytest.mark.parametrize(
    ("key", "uri", "expected"),
    [
        ("p.parquet/000000012", "/src/p.parquet#row=12", True),
        ("p.parquet/name#12", "/src/p.parquet#row=12", True),
        ("p.parquet/name#12", "/src/p.parquet#row=3", False),
        ("p.parquet/000000012#1", "/src/p.parquet#row=12&item=1", True),
        ("p.parquet/name#1", "/src/p.parquet#row=12&item=1", True),
        ("p.parquet/000000012", "/src/p.parquet#row=13", False),
        ("p.parquet/photo.jpg", "/src/p.parquet#row=12", False),
        ("a.tar/000000012", "/src/a.tar#000000012", False),
        ("000000012", "/src/000000012", False),
    ],
)
def test_a_key_that_is_its_row_number_is_told_from_a_name_of_digits(key: str, uri: str, expected: bool) -> None:
    assert IS_ROW(key, uri) is expected


def test_a_name_is_deleted_whatever_it_holds_and_so_is_its_content_under_any_other_name() -> None:
    table = table_of([deletion("a", "s")])
    assert deleted_rows(table, files(a="other", b="s", c="t")) == [0, 1]
    verdict = rule_of(table, IS_ROW).judge(files(a="other", b="s"), "")
    assert [(row["key"], row["entry"], row["scope"]) for row in verdict.copies] == [("b", "b", COPY)]


def test_a_deletion_of_an_older_release_holds_by_key_only() -> None:
    older = pa.table({"key": ["a"], "entry": ["a"], "version": pa.array([3], pa.int64())})
    table = manifests.deletion_table(manifests.to_parquet(older), "m")
    assert table.schema.equals(manifests.DELETIONS)
    assert deleted_rows(table, files(a="x", b="x")) == [0]


def test_a_row_number_is_deleted_by_content_only() -> None:
    table = table_of([deletion(numbered(2), "s", scope=BY_CONTENT)])
    assert deleted_rows(table, rows("q", "r", "s", "t"), "p.parquet") == [2]
    assert deleted_rows(table, rows("r", "s", "t"), "p.parquet") == [1], "a row before it is gone"
    assert deleted_rows(table, rows("q", "r", "t"), "p.parquet") == []


def test_copies_that_were_live_stay_and_others_do_not() -> None:
    table = table_of([deletion("a", "s", kept=["b", "c"])])
    assert deleted_rows(table, files(a="s", b="s", c="s", d="s")) == [0, 3]
    both = table_of([deletion("a", "s", kept=["b", "c"]), deletion("b", "s", kept=["c"], version=3)])
    assert deleted_rows(both, files(a="s", b="s", c="s", d="s")) == [0, 1, 3]


def test_as_many_copies_stay_in_a_container_of_numbered_rows_as_were_kept_there() -> None:
    table = table_of([deletion(numbered(1), "s", scope=BY_CONTENT, kept=[numbered(3)])])
    assert deleted_rows(table, rows("q", "s", "r", "s"), "p.parquet") == [1]
    assert deleted_rows(table, rows("s", "r", "s"), "p.parquet") == [2], "both moved: one of them stays"
    assert deleted_rows(table, rows("n", "q", "s", "r", "s"), "p.parquet") == [4]
    assert deleted_rows(table, rows("q", "s", "r", "s", "s", "s"), "p.parquet") == [1, 4, 5]
    elsewhere = table_of([deletion(numbered(1), "s", scope=BY_CONTENT, kept=["other.parquet/000000003"])])
    assert deleted_rows(elsewhere, rows("s", "r", "s"), "p.parquet") == [0, 2], "what stays elsewhere stays there"


def test_a_row_number_can_be_deleted_again_when_another_image_has_it() -> None:
    table = with_deletions(table_of([]), [deletion(numbered(1), "s", scope=BY_CONTENT)])
    table = with_deletions(table, [deletion(numbered(1), "t", scope=BY_CONTENT)])
    assert deleted_rows(table, rows("t", "r", "s"), "p.parquet") == [0, 2]
    assert with_deletions(table, [deletion(numbered(1), "t", scope=BY_CONTENT)]).equals(table)


def test_a_key_that_is_deleted_already_keeps_its_version_and_one_that_is_a_copy_gets_its_own() -> None:
    table = table_of([deletion("a", "s"), deletion("b", "s", scope=COPY)])
    more = with_deletions(table, [deletion("a", "t", version=9), deletion("b", "s", version=9)]).to_pylist()
    assert [(row["key"], row["sha256"], row["scope"], row["version"]) for row in more] == [
        ("a", "s", BY_KEY, 2),
        ("b", "s", BY_KEY, 9),
    ]


def test_restoring_a_key_frees_its_copies_unless_they_are_deleted_under_another_key() -> None:
    table = with_copies(table_of([deletion("a", "s"), deletion("z", "t")]), [deletion("b", "s", scope=COPY)])
    rest, entries = without_deletions(table, ["a"])
    assert (rest["key"].to_pylist(), sorted(entries)) == (["z"], ["a", "b"])
    table = with_copies(table_of([deletion("a", "s"), deletion("z", "s")]), [deletion("b", "s", scope=COPY)])
    rest, entries = without_deletions(table, ["a"])
    assert (rest["key"].to_pylist(), sorted(entries)) == (["b", "z"], ["a"])
    assert deleted_rows(rest, files(a="s", b="s", z="s")) == [1, 2]


def test_restoring_a_copy_lets_it_stay_and_nothing_else() -> None:
    table = with_copies(table_of([deletion("a", "s")]), [deletion("b", "s", scope=COPY)])
    rest, entries = without_deletions(table, ["b"])
    assert entries == {"b"}
    assert deleted_rows(rest, files(a="s", b="s", c="s")) == [0, 2]
    assert named(rest).equals(rest)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("xyz"), min_size=1, max_size=6),
    st.lists(st.one_of(st.integers(0, 5), st.permutations(range(9))), max_size=8),
)
def test_however_rows_move_as_many_of_each_content_are_live_as_were_left(contents: list[str], steps: list[Any]) -> None:
    """Steps are row numbers to delete, and orders in which the rows come next, some of them twice or not at all."""
    table, left, version = table_of([]), dict[str, int](), 1
    live = list(range(len(contents)))
    for step in steps:
        version += 1
        if isinstance(step, int) and step in live:
            sha256 = contents[step]
            kept = [numbered(row) for row in live if contents[row] == sha256 and row != step]
            table = with_deletions(
                table, [deletion(numbered(step), sha256, scope=BY_CONTENT, kept=kept, version=version)]
            )
            left[sha256] = len(kept)
            live.remove(step)
        elif not isinstance(step, int):
            contents = [contents[place % len(contents)] for place in step[: 1 + step[0] % 8]]
            dead = deleted_rows(table, rows(*contents), "p.parquet")
            live = [row for row in range(len(contents)) if row not in dead]
        counts = {sha256: sum(contents[row] == sha256 for row in live) for sha256 in "xyz"}
        for sha256, count in counts.items():
            there = contents.count(sha256)
            assert count == min(there, left.get(sha256, there))
        again = deleted_rows(table, rows(*contents), "p.parquet")
        assert sorted(set(range(len(contents))) - set(again)) == live, "the same file is judged the same again"
