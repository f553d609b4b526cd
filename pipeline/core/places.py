"""Whether one place lies in another, and what of a listing lies in a place: an index is no part of its own source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pipeline.core.names import parse_location
from pipeline.core.types import Entry


def beneath(inner: str, outer: str) -> str | None:
    """Return the path of a location within another one, "" for the same place; None when it does not lie there.

    Links are followed. Places of different schemes or endpoints are different ones.
    """
    one, other = parse_location(inner), parse_location(outer)
    servers = {dict(location.options).get("endpoint") for location in (one, other)} - {None}
    if one.scheme != other.scheme or len(servers) > 1:
        return None
    if one.scheme == "file":
        return _relative(os.path.realpath(one.path), os.path.realpath(other.path))
    return _relative(one.path.rstrip("/"), other.path.rstrip("/"))


def _relative(inner: str, outer: str) -> str | None:
    if inner == outer:
        return ""
    above = outer.rstrip("/") + "/"
    return inner.removeprefix(above) if inner.startswith(above) else None


def outside(entries: Iterable[Entry], base: str, place: str) -> Iterator[Entry]:
    """Yield the entries of a listing of `base` that do not lie in `place`; "" is no place."""
    lies_in = _inside(base, place) if place else None
    for entry in entries:
        if lies_in is None or not lies_in(entry.path):
            yield entry


def _inside(base: str, place: str) -> Callable[[str], bool] | None:
    """Return what tells of a path beneath `base` whether it lies in `place`; None when none can."""
    if parse_location(base).scheme == parse_location(place).scheme == "file":
        return _Folders(base, place)
    path = beneath(place, base)
    if path is None:
        return (lambda _: True) if beneath(base, place) is not None else None
    return lambda name: not path or name == path or name.startswith(f"{path}/")


class _Folders:
    """Follows links: a folder of the listing may lead into the place from elsewhere. Looks at each folder once."""

    def __init__(self, base: str, place: str) -> None:
        self._base, self._place = Path(parse_location(base).path), os.path.realpath(parse_location(place).path)
        self._folder, self._inside = "", self._lies_in("")

    def _lies_in(self, folder: str) -> bool:
        return _relative(os.path.realpath(self._base / folder), self._place) is not None

    def __call__(self, path: str) -> bool:
        folder = path.rpartition("/")[0]
        if folder != self._folder:
            self._folder, self._inside = folder, self._lies_in(folder)
        return self._inside
