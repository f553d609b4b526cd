"""Declarations of metadata, and how values of any source become their types."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.core.metadata import TEXT, Column, Kind, cast_value, checked, columns, parsed, plain

NOON = datetime(2016, 5, 4, 12)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("cc0", "string", "cc0"),
        ("", "string", ""),
        (5, "string", "5"),
        (2.5, "string", "2.5"),
        (True, "string", "true"),
        (b"caf\xc3\xa9", "string", "café"),
        (b"caf\xe9", "string", None),
        (Decimal("1.50"), "string", "1.50"),
        (NOON, "string", "2016-05-04T12:00:00"),
        (date(2016, 5, 4), "string", "2016-05-04"),
        (["a", "é"], "string", '["a", "é"]'),
        ({"a": [1]}, "string", '{"a": [1]}'),
        ({"a": b""}, "string", None),
        ("\ud800", "string", "?"),
        ("x" * 10_000, "string", "x" * TEXT),
        (float("nan"), "string", None),
        (timedelta(1), "string", None),
        (5, "int64", 5),
        (5.0, "int64", 5),
        (5.5, "int64", None),
        (True, "int64", 1),
        (" 5\n", "int64", 5),
        ("-5", "int64", -5),
        ("5.0", "int64", None),
        ("1_000", "int64", None),
        ("five", "int64", None),
        ("", "int64", None),
        (2**63 - 1, "int64", 2**63 - 1),
        (2**63, "int64", None),
        ("9" * 5000, "int64", None),
        (Decimal(7), "int64", 7),
        (Decimal("NaN"), "int64", None),
        (float("inf"), "int64", None),
        ([5], "int64", None),
        (2, "float64", 2.0),
        ("2.5", "float64", 2.5),
        ("1e400", "float64", None),
        ("nan", "float64", None),
        (10**400, "float64", None),
        (Decimal("0.25"), "float64", 0.25),
        (NOON, "float64", None),
        (True, "bool", True),
        (0, "bool", False),
        (2, "bool", None),
        ("TRUE ", "bool", True),
        ("no", "bool", None),
        ([], "bool", None),
        (NOON, "timestamp", NOON),
        (date(2016, 5, 4), "timestamp", datetime(2016, 5, 4)),
        ("2016-05-04T12:00:00Z", "timestamp", NOON),
        ("2016-05-04 14:00+02:00", "timestamp", NOON),
        ("2016-05-04", "timestamp", datetime(2016, 5, 4)),
        (NOON.replace(tzinfo=UTC), "timestamp", NOON),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2))), "timestamp", None),
        ("yesterday", "timestamp", None),
        (1462363200, "timestamp", NOON),
        ("2016:05:04 12:00:00", "timestamp", NOON),
        (True, "timestamp", None),
        ([1462363200], "timestamp", None),
        (None, "string", None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_values_become_their_type_or_null(value: object, kind: Kind, expected: object) -> None:
    found = cast_value(value, kind)
    assert found == expected
    assert type(found) is type(expected)


def test_what_is_nested_too_deeply_is_null() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert cast_value(deep, "string") is None


def test_a_declaration_is_sorted_and_says_where_values_are() -> None:
    declared = checked({"year": "int64:taken.year", "license": "string"})
    assert list(declared) == ["license", "year"]
    assert columns(declared) == (
        Column(name="license", kind="string", path="license"),
        Column(name="year", kind="int64", path="taken.year"),
    )


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"key": "string"}, "have of their own; use NAME = 'TYPE:key'"),
        ({"Score": "float64"}, "have of their own"),
        ({"local_time": "string"}, "have of their own"),
        ({"image_row": "int64"}, "have of their own"),
        ({"a.b": "string"}, "no name of letters"),
        ({"é": "string"}, "no name of letters"),
        ({"1st": "string"}, "no name of letters"),
        ({"": "string"}, "no name of letters"),
        ({"a" * 65: "string"}, "no name of letters"),
        ({"year": "int32"}, "there are string, int64, float64, bool, timestamp"),
        ({"year": "int64:"}, "no path"),
        ({"year": "int64:a..b"}, "no path"),
        ({"Year": "int64", "year": "int64"}, "twice but for capitals"),
    ],
)
def test_what_cannot_be_a_column_is_refused(declared: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        checked(declared)


def test_an_option_says_the_same() -> None:
    assert parsed("license:string, year:int64:taken.year") == {"license": "string", "year": "int64:taken.year"}
    assert parsed("none") == {}
    for text in ("license", ":string", "a:string,a:int64", ""):
        with pytest.raises(UserError, match="--metadata"):
            parsed(text)


def test_times_are_text_in_json() -> None:
    assert plain({"taken": NOON, "year": 2016, "license": None}) == {
        "taken": "2016-05-04T12:00:00",
        "year": 2016,
        "license": None,
    }
