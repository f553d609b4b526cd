"""Names of rows as keys: none twice, none changed that need not be."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources._names import RowNames, is_key, place_of, uri_of

NAMES = st.lists(
    st.sampled_from(["a", "b", "a#0", "a#1", "a#1#1", "b#3", "000000002", ""]) | st.text(max_size=3), max_size=9
)


@given(NAMES)
def test_no_two_rows_have_one_key_and_unique_names_stay(names: list[str]) -> None:
    rows = RowNames(names)
    keys = [rows.unique(name, row) for row, name in enumerate(names)]
    assert len(set(keys)) == len(keys)
    counts = Counter(names)
    for row, (name, key) in enumerate(zip(names, keys, strict=True)):
        assert key == name or (counts[name] > 1 and key.startswith(f"{name}#{row}"))
        assert is_key(f"file/{key}", f"file/{name}", row, None)
        assert is_key(f"file/{key}#7", f"file/{name}", row, 7)


def test_equal_names_get_the_number_of_their_row() -> None:
    names = ["0000.jpg", "0001.jpg", "0000.jpg"]
    rows = RowNames(names)
    assert [rows.unique(name, row) for row, name in enumerate(names)] == ["0000.jpg#0", "0001.jpg", "0000.jpg#2"]


def test_a_row_is_not_taken_for_another_of_its_name() -> None:
    assert not is_key("f/a#3", "f/a", 4, None)
    assert not is_key("f/a.jpg", "f/a", 4, None)
    assert not is_key("f/a", "f/a", 4, 0)
    assert not is_key("f/b", "f/a", 4, None)


@pytest.mark.parametrize("item", [None, 0, 12])
def test_a_uri_says_where_an_image_lies(item: int | None) -> None:
    assert place_of(uri_of("s3://b/x#row=1.parquet", 7, item)) == ("s3://b/x#row=1.parquet", 7, item)
    assert place_of("s3://b/x.parquet#row=x") is None
    assert place_of("s3://b/x.tar#a.jpg") is None
