"""Moments in time: what collections write, and what is none."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.moments import moment_of

NOON = datetime(2015, 7, 3, 12)
SECONDS = 1435924800


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2015:07:03 12:00:00", NOON),
        ("2015:07:03 12:00:00\0", NOON),
        ("2015:07:03 12:00:00.25", NOON.replace(microsecond=250_000)),
        ("2015:07:03 14:00:00+02:00", NOON),
        ("2015:07:03 12:00:00Z", NOON),
        ("2015:07:03", NOON.replace(hour=0)),
        ("2015-07-03T14:00:00+02:00", NOON),
        ("2015-07-03", NOON.replace(hour=0)),
        ("Fri, 03 Jul 2015 14:00:00 +0200", NOON),
        ("Fri, 03 Jul 2015 12:00:00 GMT", NOON),
        ("20150703", NOON.replace(hour=0)),
        (20150703, NOON.replace(hour=0)),
        (str(SECONDS), NOON),
        (f"{SECONDS}.5", NOON.replace(microsecond=500_000)),
        (SECONDS + 0.5, NOON.replace(microsecond=500_000)),
        (Decimal(SECONDS), NOON),
        (0, datetime(1970, 1, 1)),
        (-SECONDS, datetime(1924, 7, 1, 12)),
    ],
)
def test_what_collections_write_is_read(value: object, expected: datetime) -> None:
    assert moment_of(value) == expected


@pytest.mark.parametrize(
    "value",
    ["0000:00:00 00:00:00", "    :  :     :  :  ", "2015:13:03 12:00:00", "2015", 2015, 12, "yesterday", "", "3 words",
     99_999_999, True, float("nan"), float("inf"), 1e30, 10**20, b"2015", None, Decimal("NaN")],
)  # fmt: skip
def test_what_is_no_moment_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        moment_of(value)


@given(st.datetimes(datetime(1973, 3, 4), datetime(2262, 1, 1)), st.sampled_from([1, 10**3, 10**6, 10**9]))
def test_the_unit_of_a_number_is_told_by_its_size(moment: datetime, units: int) -> None:
    since = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (since.days * 86400 + since.seconds) * 10**6 + since.microseconds
    number = microseconds * units // 10**6
    known = min(units, 10**6)
    expected = moment.replace(microsecond=moment.microsecond * known // 10**6 * (10**6 // known))
    assert moment_of(number) == expected
    assert moment_of(str(number)) == expected
