"""Moments in time out of what collections write: ISO 8601, EXIF, RFC 2822, and numbers since the epoch.

All become UTC, to the microsecond, without a zone; what names no zone is taken as UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime

EPOCH = datetime(1970, 1, 1)
UNITS = ((10**11, 1), (10**14, 10**3), (10**17, 10**6), (10**20, 10**9))
"""(bound, units per second): numbers below the first bound are seconds, which reaches to the year 5138; then milli-,
micro- and nanoseconds, each from 1973 on."""
_EXIF = re.compile(r"(\d{4}):(\d\d):(\d\d)(?:[ T](\d\d:\d\d(?::\d\d(?:\.\d+)?)?) ?(Z|[+-]\d\d:?\d\d)?)?\0?")
_NUMBER = re.compile(r"-?\d{9,20}(?:\.\d*)?|-?\d+\.\d*")


def moment(text: str) -> datetime:
    """Return a time of ISO 8601 in UTC, or the first moment of a date; ValueError when it is neither."""
    return in_utc(datetime.fromisoformat(text.strip()))


def moment_of(value: object) -> datetime:
    """Return a value as a moment; ValueError, TypeError or ArithmeticError when it is none.

    Text is ISO 8601, EXIF ("2015:07:03 12:00:00", with a fraction and an offset where there are), RFC 2822, or a number
    of nine digits and more. Numbers are since the epoch, their unit by their size (see UNITS); but a whole number of
    eight digits is a date (20150703), and one of four digits or fewer, which is rather a year, is no moment; zero is.
    """
    if isinstance(value, datetime):
        return in_utc(value)
    if isinstance(value, date):
        return datetime.combine(value, time())
    if isinstance(value, str):
        return _of_text(value.strip())
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _of_number(value)
    raise TypeError("no time")


def in_utc(value: datetime) -> datetime:
    """Return a time in UTC, without its zone; one without a zone stays."""
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value


def _of_text(text: str) -> datetime:
    exif = _EXIF.fullmatch(text)
    if exif is not None:
        year, month, day, clock, zone = exif.groups()
        return moment(f"{year}-{month}-{day}T{clock or '00:00'}{zone or ''}")
    if _NUMBER.fullmatch(text):
        return _of_number(Decimal(text))
    try:
        return moment(text)
    except ValueError:
        return in_utc(parsedate_to_datetime(text))


def _of_number(number: int | float | Decimal) -> datetime:
    exact = Decimal(number)
    if exact == exact.to_integral_value():
        if 10**7 <= exact < 10**8:
            return datetime.strptime(str(int(exact)), "%Y%m%d")
        if 0 < exact < 10**4:
            raise ValueError("rather a year than a time")
    size = abs(exact)
    units = next((units for bound, units in UNITS if size < bound), None)
    if units is None:
        raise OverflowError("beyond all times")
    return EPOCH + timedelta(microseconds=int((exact * 10**6 / units).to_integral_value()))
