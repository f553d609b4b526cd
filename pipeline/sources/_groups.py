"""Side members of tar archives: x.json, x.txt and x.cls beside x.jpg, as WebDataset groups them.

A group is what goes by one name up to the first dot of the file name, and lies side by side. It is held until it ends,
within bounds. Nothing in a side member can cost an image.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import ShardError
from pipeline.core.metadata import Column, Value, cast_value
from pipeline.core.types import Image, Reject

SIDES = ("json", "txt", "cls")
"""json gives its fields by name, txt and cls their text as fields of these names."""
SIDE_BYTES = 1 << 20
"""Larger JSON is passed over; of a larger text the beginning is read."""
GROUP_BYTES = 64 << 20
"""Images of a group that take more are handed on with what is known of them until then."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """A side member: its suffix and its first SIDE_BYTES. whole: whether those are all."""

    suffix: str
    data: bytes
    whole: bool


def split(name: str) -> tuple[str, str]:
    """Return a member's group and its suffix, in small letters: "a/x.seg.PNG" gives "a/x" and "seg.png"."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    if not stem:
        # A hidden file has no name before its dot, and is no group with others.
        return name, ""
    return f"{folder}{slash}{stem}", suffix.lower()


def grouped(items: Iterable[tuple[str, Image | Reject | Side]], columns: Sequence[Column]) -> Iterator[Image | Reject]:
    """Give images the metadata of their groups; items come with the names of their members. Their order stays.

    Without columns nothing is held: images are handed on as they come.
    """
    if not columns:
        yield from (item for _, item in items if not isinstance(item, Side))
        return
    group = _Group("", columns)
    try:
        for name, item in items:
            mine, _ = split(name)
            if mine != group.name or group.bytes > GROUP_BYTES:
                yield from group.release()
            if mine != group.name:
                group = _Group(mine, columns)
            group.add(item)
    except ShardError:
        # What comes before a fault is handed on, as it is without metadata.
        yield from group.release()
        raise
    yield from group.release()


class _Group:
    """Images that wait for what else their group has, and what is known of it."""

    def __init__(self, name: str, columns: Sequence[Column]) -> None:
        self.name, self.bytes = name, 0
        self._columns = columns
        self._waiting: list[Image | Reject] = []
        self._known: dict[str, Value] = {column.name: None for column in columns}
        self._texts: set[str] = set()

    def add(self, item: Image | Reject | Side) -> None:
        if not isinstance(item, Side):
            self._waiting.append(item)
            self.bytes += len(item.data) if isinstance(item, Image) else 0
        elif item.suffix == "json":
            self._take(fields_of(item), self._texts)
        else:
            # A member of its own goes before a field of JSON that has its name, whichever comes first.
            self._texts.add(item.suffix)
            self._take({item.suffix: text_of(item)}, set())

    def _take(self, fields: Any, settled: set[str]) -> None:
        for column in self._columns:
            value = field_at(fields, column.path)
            if value is not None and column.path not in settled:
                self._known[column.name] = cast_value(value, column.kind)

    def release(self) -> Iterator[Image | Reject]:
        """Hand on what waits."""
        held, self._waiting, self.bytes = self._waiting, [], 0
        for item in held:
            if isinstance(item, Image):
                yield Image(key=item.key, uri=item.uri, data=item.data, metadata=dict(self._known))
            else:
                yield item


def fields_of(side: Side) -> Any:
    """Return what JSON says; None where it says nothing or too much."""
    try:
        return json.loads(side.data) if side.whole else None
    except (ValueError, RecursionError):
        return None


def text_of(side: Side) -> str | None:
    """Return a text without the space around it; None where it is not UTF-8."""
    try:
        wide = side.data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        # A text that is cut may end within a character.
        decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")()
        return decoder.decode(side.data, final=side.whole).strip()
    except UnicodeDecodeError:
        return None


def field_at(fields: Any, path: str) -> Any:
    """Return the field at a path: by its whole name, or else by those between the dots."""
    if not isinstance(fields, dict):
        return None
    if path in fields:
        return fields[path]
    first, _, rest = path.partition(".")
    return field_at(fields.get(first), rest) if rest else None
