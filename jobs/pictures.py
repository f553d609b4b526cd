"""Pictures for pages: thumbnails of originals, read again from the source. One that is gone costs a placeholder."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.errors import BadImageError, SightlineError
from pipeline.decode import Limits
from pipeline.publish.snapshot import Snapshot
from pipeline.search.originals import Originals
from pipeline.search.thumbnails import limits_of, thumbnail
from pipeline.table import ImageRow

LONGEST = 240
GIVE_UP = 8
"""A source that fails so often in a row is not asked again: each failure may take its retries."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """data: a JPEG in base64, "" for none. score: with what it stands beside. width, height, bytes: of the original."""

    key: str
    data: str
    score: float = 0.0
    width: int = 0
    height: int = 0
    bytes: int = 0


class Pictures:
    """Thumbnails by key and URI, of at most LONGEST pixels a side. row: see Originals."""

    def __init__(self, snapshot: Snapshot, row: Callable[[str], ImageRow | None] | None = None) -> None:
        self._made: dict[tuple[str, str], tuple[str, int]] = {}
        self._given = self._missing = self._row = 0
        self._why = ""
        self._originals = Originals(snapshot.recipe.source, snapshot.source, row)
        self._limits = limits_of(snapshot.recipe.extractor)

    def of(self, key: str, uri: str, *, score: float = 0.0, size: tuple[int, int] = (0, 0)) -> Picture:
        """Return the picture of an indexed image; without data when it cannot be had, which `note` then tells."""
        if (key, uri) not in self._made:
            self._made[key, uri] = self._read(key, uri)
        data, length = self._made[key, uri]
        return Picture(key=key, data=data, score=score, width=size[0], height=size[1], bytes=length)

    def of_reject(self, key: str, uri: str) -> Picture:
        """Return the picture of an image that was not indexed; without data when it cannot be decoded, as most."""
        if self._row >= GIVE_UP:
            return Picture(key=key, data="")
        try:
            return Picture(key=key, data=small(self._originals.read(key, uri), self._limits))
        except SightlineError:
            return Picture(key=key, data="")

    def _read(self, key: str, uri: str) -> tuple[str, int]:
        if self._row >= GIVE_UP:
            self._missing += 1
            return "", 0
        try:
            data = self._originals.read(key, uri)
            made = small(data, self._limits)
        except SightlineError as error:
            self._missing += 1
            self._row += not isinstance(error, BadImageError)
            self._why = self._why or str(error)
            return "", 0
        self._given, self._row = self._given + 1, 0
        return made, len(data)

    @property
    def note(self) -> str:
        """What is missing and why, in a sentence; "" when every picture was had."""
        if not self._missing:
            return ""
        return f"{self._missing} of {self._missing + self._given} pictures could not be had: {self._why}."


def small(data: bytes, limits: Limits | None = None) -> str:
    """Return a thumbnail of an encoded image, in base64; BadImageError when it cannot be decoded."""
    return base64.b64encode(thumbnail(data, LONGEST, limits or Limits())).decode()
