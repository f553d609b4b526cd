"""Conditions mean what they mean to DuckDB, and nothing but conditions means anything."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.core.metadata import Kind
from pipeline.search.where import condition

KINDS: dict[str, Kind] = {
    "license": "string",
    "year": "int64",
    "born": "int64",
    "rating": "float64",
    "open": "bool",
    "taken": "timestamp",
}
TYPES = {
    "key": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "license": pa.string(),
    "year": pa.int64(),
    "born": pa.int64(),
    "rating": pa.float64(),
    "open": pa.bool_(),
    "taken": pa.timestamp("us"),
}

letters = st.text(alphabet="aB%_\\é'\n", max_size=4)
whole = st.integers(-3, 3) | st.sampled_from([2015, 2016, 1 << 40])
real = st.sampled_from([-2.5, -1.0, 0.0, 0.25, 0.5, 1.0, 2.0, 3.5, 2015.5])
times = st.sampled_from([datetime(2015, 1, 1), datetime(2015, 1, 1, 10, 30), datetime(1969, 12, 31, 23, 59, 59, 5)])
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "license": letters,
    "year": whole,
    "born": whole,
    "rating": real,
    "open": st.booleans(),
    "taken": times,
}
rows = st.fixed_dictionaries(
    {
        "key": letters,
        "width": st.integers(1, 4),
        "height": st.integers(1, 4),
        **{name: st.none() | cells for name, cells in CELLS.items()},
    }
)
tables = st.lists(rows, max_size=8).map(
    lambda made: pa.table({name: pa.array([row[name] for row in made], kind) for name, kind in TYPES.items()})
)


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value.isoformat(' ')}'"
    return str(value)


strings, numbers = st.sampled_from(["license", "LICENSE", "key"]), st.sampled_from(["year", "born", "width", "rating"])
text = letters.map(literal)
number = (whole | real).map(literal)
null = st.just("NULL")
moments = times.map(literal) | times.map(lambda value: literal(value.isoformat(" "))) | st.just("DATE '2015-01-01'")
comparison = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(" ".join)


def listed(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(parts, min_size=1, max_size=10).map(lambda made: f"({', '.join(made)})")


atoms = st.one_of(
    joined(strings, comparison, text | strings | null),
    joined(number, comparison, numbers),
    joined(numbers, comparison, number | numbers | null),
    joined(st.just("taken"), comparison, moments),
    joined(st.just("open"), st.sampled_from(["=", "<>"]), st.sampled_from(["true", "false", "open", "NULL"])),
    joined(strings, st.sampled_from(["LIKE", "NOT LIKE"]), text),
    joined(strings, st.sampled_from(["IN", "NOT IN"]), listed(text | null)),
    joined(numbers, st.sampled_from(["IN", "not in"]), listed(number | null)),
    joined(st.sampled_from(["year", "born"]), st.sampled_from(["IN", "not in"]), listed(whole.map(literal))),
    joined(numbers, st.sampled_from(["BETWEEN", "NOT BETWEEN"]), number, st.just("AND"), number | null),
    joined(st.sampled_from(list(KINDS)), st.sampled_from(["IS NULL", "IS NOT NULL"])),
    st.sampled_from(["open", "true", "FALSE", "NULL", "1 = 1"]),
)
conditions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        joined(inner, st.sampled_from(["AND", "OR", "or", "and"]), inner),
        joined(st.just("NOT"), inner),
        inner.map(lambda made: f"({made})"),
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def matching(table: pa.Table, where: str, kinds: dict[str, Kind] = KINDS) -> list[int]:
    found = condition(where, kinds)
    numbered = table.select(found.columns).append_column("image_row", pa.array(range(table.num_rows), pa.int64()))
    return sorted(numbered.filter(found.expression)["image_row"].to_pylist())


@settings(max_examples=300, deadline=None)
@given(table=tables, where=conditions)
def test_a_condition_means_what_it_means_to_duckdb(
    database: duckdb.DuckDBPyConnection, table: pa.Table, where: str
) -> None:
    numbered = table.append_column("image_row", pa.array(range(table.num_rows), pa.int64()))
    database.register("images", numbered)
    expected = [row for (row,) in database.sql(f"select image_row from images where {where}").fetchall()]
    assert matching(table, where) == sorted(expected)


def test_long_conditions_stay_shallow() -> None:
    table = pa.table({"year": [1, 2999, None, 70_000]})
    many = [f"year = {number}" for number in range(3000)]
    assert matching(table, " or ".join(many)) == [0, 1]
    assert matching(table, f"year in ({', '.join(str(number) for number in range(9000))})") == [0, 1]
    assert matching(table, " and ".join(f"not {one}" for one in many)) == [3]


def test_numbers_that_a_float_cannot_hold_are_compared_as_they_are() -> None:
    table = pa.table({"year": [(1 << 53) + 1, 1 << 53, (1 << 63) - 1, -(1 << 63)]})
    assert matching(table, "year = 9007199254740993") == [0]
    assert matching(table, "year > 9007199254740992.0") == [0, 2]
    assert matching(table, "year = 9007199254740993.0") == [0]
    assert matching(table, "year > 0.5") == [0, 1, 2]
    assert matching(table, "year < 99999999999999999999999") == [0, 1, 2, 3]
    assert matching(table, "year < 1e300 and year > -1e300") == [0, 1, 2, 3]


def test_words_of_sql_are_columns_in_double_quotes() -> None:
    table = pa.table({"order": [1, 2], "select": ["a", "b"]})
    kinds: dict[str, Kind] = {"order": "int64", "select": "string"}
    assert matching(table, '"order" = 2 and "SELECT" = \'b\'', kinds) == [1]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("", "no condition"),
        ("year =", "no condition"),
        ("year = 1; drop table images", "no condition"),
        ("year = 1; year = 2", "not understood"),
        ("select year from images", "no condition"),
        ("year = (select 1)", "neither a column nor a literal"),
        ("year in (select 1)", "not understood"),
        ("exists (select 1)", "not understood"),
        ("lower(license) = 'a'", "neither a column nor a literal"),
        ("read_csv('/etc/passwd')", "not understood"),
        ("year + 1 = 2", "neither a column nor a literal"),
        ("year::string = '1'", "neither a column nor a literal"),
        ("license || 'a' = 'ba'", "neither a column nor a literal"),
        ("images.year = 1", "neither a column nor a literal"),
        ("year = ?", "neither a column nor a literal"),
        ("year = $1", "neither a column nor a literal"),
        ("case when open then true end", "not understood"),
        ("license like 'a' escape '!'", "not understood"),
        ("license like key", "LIKE"),
        ("year like '2%'", "LIKE"),
        ("license ilike 'a'", "not understood"),
        ("license similar to 'a'", "not understood"),
        ("license ~ 'a'", "not understood"),
        ("open is true", "not understood"),
        ("(year > 1) is null", "which is for columns"),
        ("year is distinct from 1", "not understood"),
        ("year in ()", "not understood"),
        ("year < 1 < 2", "neither a column nor a literal"),
        ("year", "int64, where a condition belongs"),
        ("'a'", "not understood"),
        ("open > false", "which truth is greater"),
        ("year = 'a'", "compares int64 with string"),
        ("license = 3", "compares string with int64"),
        ("open = 1", "compares bool with int64"),
        ("taken > 3", "compares timestamp with int64"),
        ("taken > 'soon'", "'soon' where a time belongs"),
        ("year between 1 and 'b'", "compares int64 with string"),
        ("year in (1, 'b')", "compares int64 with string"),
        ('license = "cc0"', "single quotes"),
        ("place = 'Rome'", "'place', which is no column"),
        ("(" * 3000 + "open" + ")" * 3000, "nested too deeply"),
        ("not " * 3000 + "open", "nested too deeply"),
        ("year = 1 or " * 10_000 + "open", "characters"),
        (f"license like '{'_%' * 1000}'", "a LIKE of 2000 characters"),
        (f"width = {'9' * 309}", "999...', a number that 64 bits do not hold"),
        (f"width = {'9' * 5000}", "999...', a number that 64 bits do not hold"),
        ("rating > -1e999", "'1e999', a number that 64 bits do not hold"),
        ("rating > 1e99999999999999999999", "where a number belongs"),
        ("width = . 1.", "'0.1.' where a number belongs"),
        ("width = 1e", "'1e' where a number belongs"),
        ("key like { : } key when", "no condition"),
        ("license = '\ud800'", "half a character"),
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_everything_else_is_refused_in_one_line_that_lists_the_columns(where: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        condition(where, KINDS)
    line = str(caught.value)
    assert words in line
    assert line.startswith("--where ")
    assert "columns: key (string), width (int64), height (int64), license (string), year (int64)" in line
    assert len(line.splitlines()) == 1
    assert len(line) < 500
    line.encode()


LANGUAGE = (
    "license year born rating open taken key width place 'a' '%_' 1 1. . 1e9 1e999 1e 0x1F '2015-01-01' true is null "
    "= != <> < <= > >= ( ) , and or not in like between date timestamp - + * / { } [ ] : :: ; ? $ @ # -- /* -> | || ~ "
    "! % ^ & \" ' x'ff' case when then end select from exists any cast as escape lambda interval similar ilike order by"
)
WORDS = [*LANGUAGE.split(), "9" * 400, "\ud800"]
STARTS = ["", "width =", "key like", "year in (", "open and", "rating between", "taken >"]


def test_any_words_are_a_condition_or_a_user_error() -> None:
    """What is understood must also be computable; any other exception than a UserError ends the test."""
    generator = random.Random(5)
    images = pa.table({name: pa.array([], kind) for name, kind in TYPES.items()})
    understood = 0
    for _ in range(5000):
        words = generator.choices(WORDS, k=generator.randint(1, 8))
        try:
            matching(images, " ".join([generator.choice(STARTS), *words]))
        except UserError:
            continue
        understood += 1
    assert 0 < understood < 1000
