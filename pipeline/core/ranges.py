"""RangeFile: a seekable file over ranged reads, one block ahead of its reader. Knows nothing of servers or retries."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future
from typing import BinaryIO

from pipeline.core.limited_pool import LimitedPool

BLOCK = 8 << 20
"""Bytes per request: large enough that latency is small beside the transfer."""


class RangeFile(io.RawIOBase):
    """Reads `size` bytes through fetch(start, end). Holds two blocks: the current one, and the next on its way."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, *, block: int = BLOCK) -> None:
        super().__init__()
        self._fetch, self._size, self._block = fetch, size, block
        self._position = 0
        self._number, self._data = -1, b""
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._pool: LimitedPool | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; nothing is fetched."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, fewer only at the end. A read that fails leaves the position where it was."""
        if self.closed:
            raise ValueError("read of closed file")
        position = self._position
        wanted = self._size - position if size is None or size < 0 else min(size, self._size - position)
        parts = []
        while wanted > 0:
            block = self._load(position // self._block)
            offset = position % self._block
            part = block[offset : offset + wanted]
            parts.append(part)
            position += len(part)
            wanted -= len(part)
        self._position = position
        return b"".join(parts)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` in one request of their own, fewer only at the end; the position stays."""
        end = min(self._size, offset + size)
        return self._fetch(offset, end) if 0 <= offset < end else b""

    def readall(self) -> bytes:
        """Return the rest."""
        return self.read()

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # typeshed: any buffer
        """Fill a buffer; return how much of it."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let the thread go."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        super().close()

    def _span(self, number: int) -> tuple[int, int]:
        return number * self._block, min(self._size, (number + 1) * self._block)

    def _load(self, number: int) -> bytes:
        if number == self._number:
            return self._data
        sequential = number == self._number + 1
        # Forgotten first: a fetch that failed is tried anew by the next read.
        ahead, self._ahead = self._ahead, None
        on_its_way = ahead[1] if ahead is not None and ahead[0] == number else None
        self._data = on_its_way.result() if on_its_way is not None else self._fetch(*self._span(number))
        self._number = number
        if sequential and self._span(number + 1)[0] < self._size:
            self._pool = self._pool or LimitedPool(1, "read-ahead")
            self._ahead = (number + 1, self._pool.submit(self._fetch, *self._span(number + 1)))
        return self._data


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return `size` bytes from `offset` of an open file, fewer only at its end; of a distant one no others are read."""
    if isinstance(file, RangeFile):
        return file.read_at(offset, size)
    file.seek(offset)
    return file.read(size)
