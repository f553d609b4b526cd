"""Conditions on metadata: a small part of SQL, parsed by sqlglot and turned into an expression of pyarrow.compute.

Only what is listed here means anything: AND, OR, NOT, parentheses, = != <> < <= > >=, IN, LIKE, BETWEEN, IS NULL,
columns, and literals. No SQL is ever run. Nulls are SQL's: what compares with one is neither true nor false.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from decimal import Decimal
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
from sqlglot import exp

from pipeline.core.errors import UserError
from pipeline.core.metadata import Kind
from pipeline.core.moments import moment

BUILT_IN: dict[str, Kind] = {"key": "string", "width": "int64", "height": "int64"}
"""Columns of every descriptor file that a condition may name, beside those of metadata."""
LONGEST = 1 << 16
"""Characters of a condition."""
LONGEST_PATTERN = 1000
NUMBERS = ("int64", "float64")
NULL = pc.scalar(pa.scalar(None, pa.bool_()))
_COMPARISONS: dict[type[exp.Expr], Callable[[Any, Any], pc.Expression]] = {
    exp.EQ: operator.eq,
    exp.NEQ: operator.ne,
    exp.LT: operator.lt,
    exp.LTE: operator.le,
    exp.GT: operator.gt,
    exp.GTE: operator.ge,
}
_OF_TWO: tuple[type[exp.Expr], ...] = (exp.And, exp.Or, exp.Like, exp.Is, *_COMPARISONS)
_OF_ONE: tuple[type[exp.Expr], ...] = (exp.Paren, exp.Not, exp.Column, exp.Boolean, exp.Neg)
_UNDERSTOOD: dict[type[exp.Expr], set[str]] = {
    **{node: {"this", "expression"} for node in _OF_TWO},
    **{node: {"this"} for node in _OF_ONE},
    exp.Between: {"this", "low", "high"},
    exp.In: {"this", "expressions"},
    exp.Literal: {"this", "is_string"},
    exp.Cast: {"this", "to"},
    exp.Null: set(),
}
"""Nodes, and what of theirs means something here. "negate" always does: some versions put it in place of a NOT."""
_INT64 = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a text asks of an image. columns: those it names, sorted."""

    expression: pc.Expression
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Operand:
    """A column, by its expression, or a literal, by its value. kind: its type, or "null"."""

    kind: str
    column: pc.Expression | None = None
    value: Any = None

    @property
    def expression(self) -> pc.Expression:
        if self.column is not None:
            return self.column
        return pc.scalar(pa.scalar(self.value, pa.timestamp("us") if self.kind == "timestamp" else None))


class _RefusedError(Exception):
    """What is wrong with a text, in a few words."""


def condition(text: str, metadata: Mapping[str, Kind]) -> Condition:
    """Return what a text such as "license = 'cc0' and year > 2015" asks; UserError, with the columns, when that fails.

    metadata: the declared columns. Names are found whatever their capitals; in double quotes they may be SQL's words.
    """
    kinds = {**BUILT_IN, **metadata}
    try:
        if len(text) > LONGEST:
            raise _RefusedError(f"has more than {LONGEST} characters")
        text.encode()
        found = _Reader(kinds)
        expression = found.truth(_parsed(text))
    except _RefusedError as error:
        reason = str(error)
    except UnicodeEncodeError:
        reason = "has half a character"
    except RecursionError:
        reason = "is nested too deeply"
    else:
        return Condition(expression=expression, columns=tuple(sorted(found.named)))
    there = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    shown = (text if len(text) <= 80 else f"{text[:77]}...").encode(errors="replace").decode()
    raise UserError(f"--where {shown}", reason, f"columns: {there}")


def _parsed(text: str) -> exp.Expr:
    try:
        return sqlglot.parse_one(text, into=exp.Condition, dialect="duckdb")
    except RecursionError:
        raise
    except Exception as error:  # noqa: BLE001 - sqlglot fails in any way where a text confuses it
        what = getattr(error, "errors", None) or [{}]
        near = str(what[0].get("highlight") or "").strip()
        raise _RefusedError("is no condition of SQL" + (f", near {near[:40]!r}" if near else "")) from None


class _Reader:
    """Turns a tree into an expression, and remembers the columns that it met."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds
        self._names = {name.lower(): name for name in kinds}
        self.named: set[str] = set()

    def truth(self, node: exp.Expr) -> pc.Expression:
        """Return a node that is true, false or null."""
        _check(node)
        found = self._truth(node)
        return ~found if node.args.get("negate") else found

    def _truth(self, node: exp.Expr) -> pc.Expression:
        if isinstance(node, exp.Paren):
            return self.truth(node.this)
        if isinstance(node, exp.And | exp.Or):
            join = operator.and_ if isinstance(node, exp.And) else operator.or_
            return _balanced(join, [self.truth(part) for part in node.flatten()])
        if isinstance(node, exp.Not):
            return ~self.truth(node.this)
        if type(node) in _COMPARISONS:
            return self._compared(type(node), self._operand(node.this), self._operand(node.expression))
        if isinstance(node, exp.Between):
            one, low, high = (self._operand(part) for part in (node.this, node.args["low"], node.args["high"]))
            return self._compared(exp.GTE, one, low) & self._compared(exp.LTE, one, high)
        if isinstance(node, exp.In) and node.expressions:
            return self._among(self._operand(node.this), [self._operand(part) for part in node.expressions])
        if isinstance(node, exp.Like):
            return self._like(self._operand(node.this), self._operand(node.expression))
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            return self._is_null(node.this)
        if isinstance(node, exp.Column | exp.Boolean | exp.Null):
            one = self._operand(node)
            if one.kind not in ("bool", "null"):
                raise _RefusedError(f"has {_shown(node)}, which is {one.kind}, where a condition belongs")
            return NULL if one.kind == "null" else one.expression
        raise _RefusedError(f"has {_shown(node)}, which is not understood here")

    def _is_null(self, node: exp.Expr) -> pc.Expression:
        inner = node.unnest()
        if not isinstance(inner, exp.Column):
            raise _RefusedError(f"asks whether {_shown(node)} is null, which is for columns")
        return self._operand(inner).expression.is_null()

    def _operand(self, node: exp.Expr) -> _Operand:
        """Return a column or a literal."""
        _check(node, "neither a column nor a literal")
        if isinstance(node, exp.Paren):
            return self._operand(node.this)
        if isinstance(node, exp.Column) and isinstance(node.this, exp.Identifier):
            return self._column(node.name, quoted=bool(node.this.args.get("quoted")))
        if isinstance(node, exp.Null):
            return _Operand(kind="null")
        if isinstance(node, exp.Boolean):
            return _Operand(kind="bool", value=bool(node.this))
        if isinstance(node, exp.Literal):
            return _Operand(kind="string", value=node.this) if node.is_string else _number(node.this, 1)
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
            return _number(node.this.this, -1)
        if isinstance(node, exp.Cast) and isinstance(node.this, exp.Literal) and node.this.is_string:
            return _time_literal(node)
        raise _RefusedError(f"has {_shown(node)}, which is neither a column nor a literal")

    def _column(self, name: str, *, quoted: bool) -> _Operand:
        real = self._names.get(name.lower())
        if real is None:
            hint = " (texts stand in single quotes)" if quoted else ""
            raise _RefusedError(f"names {name!r}, which is no column{hint}")
        self.named.add(real)
        column = pc.field(real)
        if real in ("width", "height"):
            column = column.cast(pa.int64())  # stored in 32 bits
        return _Operand(kind=self._kinds[real], column=column)

    def _compared(self, comparison: type[exp.Expr], one: _Operand, other: _Operand) -> pc.Expression:
        if "null" in (one.kind, other.kind):
            return NULL
        one, other = _as_time(one, other), _as_time(other, one)
        both = {one.kind, other.kind}
        if len(both) > 1 and not both <= set(NUMBERS):
            raise _RefusedError(f"compares {one.kind} with {other.kind}")
        if "bool" in both and comparison not in (exp.EQ, exp.NEQ):
            raise _RefusedError("asks which truth is greater")
        left, right = one.expression, other.expression
        if len(both) > 1:
            # Without a cast of its own Arrow refuses integers that a float64 does not hold exactly.
            left, right = (part.cast(pa.float64(), safe=False) for part in (left, right))
        return _COMPARISONS[comparison](left, right)

    def _among(self, one: _Operand, others: Sequence[_Operand]) -> pc.Expression:
        plain = one.column is not None and all(
            other.kind == one.kind and other.column is None and other.kind != "float64" for other in others
        )
        if not plain or len(others) < 8:
            return _balanced(operator.or_, [self._compared(exp.EQ, one, other) for other in others])
        kind = pa.timestamp("us") if one.kind == "timestamp" else None
        found = one.expression.isin(pa.array([other.value for other in others], kind))
        # Arrow finds null in no list, and SQL does not know: comparing it with itself gives null, and false for others.
        return found | (one.expression != one.expression)

    @staticmethod
    def _like(one: _Operand, pattern: _Operand) -> pc.Expression:
        if "null" in (one.kind, pattern.kind):
            return NULL
        if one.kind != "string" or pattern.kind != "string" or pattern.column is not None:
            raise _RefusedError("has a LIKE that is not of a string and a text with % and _")
        return pc.match_substring_regex(one.expression, _regular(pattern.value))


def _check(node: exp.Expr, what: str = "not understood here") -> None:
    """Refuse a node that is not listed, or that says more than is listed."""
    said = {name for name, value in node.args.items() if value not in (None, False, [])}
    if type(node) not in _UNDERSTOOD or said - _UNDERSTOOD[type(node)] - {"negate"}:
        raise _RefusedError(f"has {_shown(node)}, which is {what}")


def _number(text: str, sign: int) -> _Operand:
    """Return a number: an integer where it is whole and has 64 bits, however it is written."""
    try:
        value = Decimal(text if sign > 0 else f"-{text}")
    except ArithmeticError:
        raise _RefusedError(f"has {_shown(text)} where a number belongs") from None
    if math.isinf(real := float(value)):
        raise _RefusedError(f"has {_shown(text)}, a number that 64 bits do not hold")
    whole = value == value.to_integral_value() and int(value) in _INT64
    return _Operand(kind="int64", value=int(value)) if whole else _Operand(kind="float64", value=real)


def _time_literal(node: exp.Cast) -> _Operand:
    """Return DATE '...' or TIMESTAMP '...'."""
    kind, text = node.to.this, str(node.this.this)
    if kind in (exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPNTZ):
        return _Operand(kind="timestamp", value=_moment(text))
    if kind == exp.DataType.Type.DATE:
        return _Operand(kind="timestamp", value=datetime.combine(_moment(text), time()))
    raise _RefusedError(f"has {_shown(node)}, a type that is not understood here")


def _as_time(one: _Operand, other: _Operand) -> _Operand:
    """Return a text that is compared with a time as a time."""
    if one.kind == "string" and one.column is None and other.kind == "timestamp":
        return _Operand(kind="timestamp", value=_moment(one.value))
    return one


def _moment(text: str) -> datetime:
    try:
        return moment(text)
    except (ValueError, OverflowError):
        raise _RefusedError(f"has {text[:40]!r} where a time belongs, for example '2015-12-31'") from None


def _regular(pattern: str) -> str:
    r"""Return a LIKE pattern as one of RE2: % is any text, _ any character, and nothing escapes.

    Arrow's own LIKE takes backslashes for escapes, and finds none that is doubled (`%\\%`).
    """
    if len(pattern) > LONGEST_PATTERN:
        raise _RefusedError(f"has a LIKE of {len(pattern)} characters, more than {LONGEST_PATTERN}")
    signs, short = {"%": ".*", "_": "."}, re.sub("%+", "%", pattern)
    body = (signs.get(sign) or (sign if sign.isalnum() else f"\\x{{{ord(sign):x}}}") for sign in short)
    return rf"(?s)\A{''.join(body)}\z"


def _balanced(join: Callable[[Any, Any], Any], parts: Sequence[pc.Expression]) -> pc.Expression:
    """Join many parts without going deep."""
    if len(parts) <= 4:
        return reduce(join, parts)
    middle = len(parts) // 2
    return join(_balanced(join, parts[:middle]), _balanced(join, parts[middle:]))


def _shown(what: exp.Expr | str) -> str:
    try:
        line = " ".join((what if isinstance(what, str) else what.sql(dialect="duckdb")).split())
    except Exception:  # noqa: BLE001 - a tree that sqlglot reads, and cannot write
        line = type(what).__name__.lower()
    return repr(line if len(line) <= 40 else f"{line[:37]}...")
