"""Metadata of images: what a recipe declares of it, and how a source's values become those types. Reads no files.

A declaration is {"name": "type"} or {"name": "type:path"}. The path says where a source has the value: a column, or a
field of JSON, with dots for what lies inside another; without one it is the name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, cast, get_args

from pipeline.core.errors import UserError
from pipeline.core.moments import in_utc, moment_of

Kind = Literal["string", "int64", "float64", "bool", "timestamp"]
"""timestamp: to the microsecond, in UTC, without saying so; see pipeline.core.moments."""
Value = str | int | float | bool | datetime | None

RESERVED = {"key", "uri", "width", "height", "sha256", "descriptor", "image_row", "box", "scale", "score"}
"""Columns that descriptor files have of their own, beside those that begin with "local"."""
TEXT = 4096
"""Characters that a string is cut to."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One declared column, and the path of its values in a source."""

    name: str
    kind: Kind
    path: str


def columns(declared: Mapping[str, str]) -> tuple[Column, ...]:
    """Return the columns of a declaration that has been checked."""
    found = []
    for name, text in declared.items():
        kind, _, path = text.partition(":")
        found.append(Column(name=name, kind=cast("Kind", kind), path=path or name))
    return tuple(found)


def checked(declared: dict[str, str]) -> dict[str, str]:
    """Return a declaration in the order of its names; ValueError for what cannot be a column.

    Sorted, because the order in which a table of settings was written is no part of its fingerprint.
    """
    seen: set[str] = set()
    for name, text in declared.items():
        lower = name.lower()
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of letters, digits and underscores")
        if lower in RESERVED or lower.startswith("local"):
            raise ValueError(f"{name!r} is a column that descriptor files have of their own; use NAME = 'TYPE:{name}'")
        # SQL does not tell capitals from small letters.
        if lower in seen:
            raise ValueError(f"{name!r} is there twice but for capitals")
        seen.add(lower)
        kind, colon, path = text.partition(":")
        if kind not in get_args(Kind):
            raise ValueError(f"{name!r} has the type {kind!r}; there are {', '.join(get_args(Kind))}")
        if colon and not all(path.split(".")):
            raise ValueError(f"{name!r} has no path after its type; write for example {kind}:place.city")
    return {name: declared[name] for name in sorted(declared)}


def parsed(text: str) -> dict[str, str]:
    """Return what an option says: "license:string,year:int64:taken.year", or nothing by "none"."""
    if text.strip() == "none":
        return {}
    found: dict[str, str] = {}
    for part in text.split(","):
        name, colon, kind = part.strip().partition(":")
        if not colon or not name or name in found:
            wrong = "is there twice" if name in found else "is no name and type"
            raise UserError(f"--metadata {text}", f"{part.strip()!r} {wrong}", "write license:string,year:int64")
        found[name] = kind
    return found


def cast_value(value: object, kind: Kind) -> Value:
    """Return a source's value as a declared type; None where it cannot be one.

    Text becomes a number, a truth or a time where it is one; a number becomes an integer where it is whole; lists and
    objects become strings as JSON. What is not finite is None.
    """
    if value is None:
        return None
    try:
        return _CASTS[kind](value)
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        return None


def plain(metadata: Mapping[str, Value]) -> dict[str, Any]:
    """Return metadata as JSON types: times as ISO 8601."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in metadata.items()}


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode()
    elif isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number")
    elif isinstance(value, datetime):
        value = in_utc(value).isoformat()
    elif isinstance(value, date):
        value = value.isoformat()
    elif isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False, allow_nan=False)
    elif not isinstance(value, str | int | float | Decimal):
        raise TypeError("no text")
    # JSON can hold halves of characters, which UTF-8 cannot.
    return str(value)[:TEXT].encode(errors="replace").decode()


def _integer(value: Any) -> int:
    if isinstance(value, str):
        number = int(_figures(value))
    elif isinstance(value, int | float | Decimal) and value == int(value):
        number = int(value)
    else:
        raise ValueError("not a whole number")
    if not -(1 << 63) <= number < 1 << 63:
        raise OverflowError("beyond 64 bits")
    return number


def _real(value: Any) -> float:
    if not isinstance(value, str | int | float | Decimal):
        raise TypeError("no number")
    number = float(_figures(value) if isinstance(value, str) else value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _figures(text: str) -> str:
    if "_" in text:
        raise ValueError("only Python writes numbers so")
    return text.strip()


def _truth(value: Any) -> bool:
    found = value.strip().lower() if isinstance(value, str) else value
    truths = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
    if not isinstance(found, str | int | float):
        raise TypeError("no truth")
    if found not in truths:
        raise ValueError("neither true nor false")
    return truths[found]


_CASTS: dict[str, Callable[[Any], Value]] = {
    "string": _text,
    "int64": _integer,
    "float64": _real,
    "bool": _truth,
    "timestamp": moment_of,
}
