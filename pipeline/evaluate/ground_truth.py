"""Ground truth: the two JSON forms, parsed into values. Pickled ground truth is not read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import UserError

MAX_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Relevant:
    """Plain form: for each query key the keys of its relevant images."""

    relevant: Mapping[str, frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class RevisitedQuery:
    """One query of the revisited form: indices into imlist, and the box (x0, y0, x1, y1) of the object if given."""

    easy: tuple[int, ...]
    hard: tuple[int, ...]
    junk: tuple[int, ...]
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True, kw_only=True)
class Revisited:
    """Revisited form: database names, query names, one entry per query."""

    imlist: tuple[str, ...]
    qimlist: tuple[str, ...]
    gnd: tuple[RevisitedQuery, ...]


GroundTruth = Relevant | Revisited


def parse_ground_truth(data: bytes, name: str) -> GroundTruth:
    """Read either form; a UserError names what is wrong and where."""
    if len(data) > MAX_BYTES:
        raise UserError(name, f"is larger than {MAX_BYTES >> 20} MiB", "is it a ground-truth file?")
    try:
        body = json.loads(data, object_pairs_hook=_once)
    except _TwiceError as twice:
        raise UserError(name, f"has {twice.args[0]!r} twice", "name each query once, with all its images") from None
    except (ValueError, RecursionError):
        raise UserError(name, "is not JSON", "write {query key: [relevant keys]} or the revisited form") from None
    if not isinstance(body, dict) or not body:
        raise UserError(name, "is no JSON object", "write {query key: [relevant keys]} or the revisited form")
    if {"imlist", "qimlist", "gnd"} <= set(body):
        return _revisited(body, name)
    for key, value in body.items():
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(name, f"query {key!r} has no list of keys", "write {query key: [relevant keys]}")
    return Relevant(relevant={key: frozenset(value) for key, value in body.items()})


class _TwiceError(Exception):
    """A name that stands twice in one JSON object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; of a name that it has twice, all but the last list would be lost without a word."""
    body = dict(pairs)
    if len(body) < len(pairs):
        raise _TwiceError(next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place])))
    return body


def _revisited(body: dict[str, Any], name: str) -> Revisited:
    imlist, qimlist, gnd = body["imlist"], body["qimlist"], body["gnd"]
    for what, value in (("imlist", imlist), ("qimlist", qimlist)):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(name, f"{what} is no list of names", "see the revisited format")
    if not isinstance(gnd, list) or len(gnd) != len(qimlist):
        raise UserError(name, "gnd has not one entry per query of qimlist", "see the revisited format")
    queries = tuple(_query(entry, number, len(imlist), name) for number, entry in enumerate(gnd))
    return Revisited(imlist=tuple(imlist), qimlist=tuple(qimlist), gnd=queries)


def _query(entry: Any, number: int, images: int, name: str) -> RevisitedQuery:
    lists: dict[str, tuple[int, ...]] = {}
    for kind in ("easy", "hard", "junk"):
        value = entry.get(kind) if isinstance(entry, dict) else None
        fits = isinstance(value, list) and all(type(i) is int and 0 <= i < images for i in value)
        if not fits or value is None:
            raise UserError(name, f"gnd[{number}] has no list {kind!r} of indices into imlist", "indices begin at 0")
        lists[kind] = tuple(dict.fromkeys(value))
    for one, other in (("easy", "hard"), ("easy", "junk"), ("hard", "junk")):
        both = set(lists[one]) & set(lists[other])
        if both:
            raise UserError(name, f"gnd[{number}] has image {min(both)} in {one} and in {other}", "leave it in one")
    box = entry.get("bbx")
    if box is not None:
        if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(v) for v in box):
            raise UserError(name, f"gnd[{number}] has a bbx that is not four numbers", "write x0, y0, x1, y1")
        box = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    return RevisitedQuery(easy=lists["easy"], hard=lists["hard"], junk=lists["junk"], box=box)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
