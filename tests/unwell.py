"""A Store over another whose reads fail on purpose, as those of a mount that drops or of a key that is denied."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from pipeline.core.memory import MemoryStore
from pipeline.core.os_errors import reading
from pipeline.core.types import Entry

Make = Callable[[str], Exception]
"""Makes the error of reading a name."""


class Unwell:
    """fails: name -> (error, byte from which reading an open file fails); stats: name -> error. Folders share them."""

    def __init__(self, inner: MemoryStore, fails: dict[str, tuple[Make, int]] | None = None, prefix: str = "") -> None:
        self.inner, self.prefix = inner, prefix
        self.fails: dict[str, tuple[Make, int]] = {} if fails is None else fails
        self.stats: dict[str, Make] = {}
        self.reads = 0
        self.url = inner.url

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def below(self, folder: str) -> Unwell:
        view = Unwell(self.inner.below(folder), self.fails, f"{self.prefix}{folder}/")
        view.stats = self.stats
        return view

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self.inner.list(prefix)

    def stat(self, name: str) -> Entry:
        if self.prefix + name in self.stats:
            raise translated(self.stats[self.prefix + name](name), name)
        return self.inner.stat(name)

    def read(self, name: str) -> bytes:
        self.reads += 1
        if self.prefix + name in self.fails:
            raise translated(self.fails[self.prefix + name][0](name), name)
        return self.inner.read(name)

    def open(self, name: str) -> BinaryIO:
        data = self.inner.read(name)
        if self.prefix + name not in self.fails:
            return io.BytesIO(data)
        make, start = self.fails[self.prefix + name]
        if start == 0:
            raise translated(make(name), name)
        return Breaking(data, start, translated(make(name), name))


def translated(error: Exception, name: str) -> Exception:
    """Return what a LocalStore makes of an error of the operating system; other errors as they are."""
    try:
        with reading(name):
            raise error
    except Exception as known:  # noqa: BLE001 - it is returned
        return known


class Breaking(io.BytesIO):
    """Bytes whose reading fails beyond a byte; like a file, it may be asked for less at a time."""

    def __init__(self, data: bytes, start: int, error: Exception) -> None:
        super().__init__(data)
        self._start, self._error = start, error

    def read(self, size: int | None = -1, /) -> bytes:
        end = len(self.getbuffer()) if size is None or size < 0 else self.tell() + size
        if end > self._start:
            raise self._error
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        if self.tell() + len(buffer) > self._start:
            raise self._error
        return super().readinto(buffer)
