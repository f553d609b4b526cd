"""Single files of an object store are read many at a time, within a bound on their number and on their bytes."""

from __future__ import annotations

import threading
from typing import Any

from pipeline.core.retry import RetryingStore
from pipeline.core.types import Entry, Image, Shard
from pipeline.sources._files import DISTANT_AHEAD, DISTANT_IN_FLIGHT, read_entries


class Server:
    """A distant store that answers when `wanted` requests wait, or no other comes; counts them and their bytes."""

    url = "s3://bucket/images"

    def __init__(self, size: int, wanted: int) -> None:
        self._size, self._wanted = size, wanted
        self._lock, self._enough = threading.Lock(), threading.Event()
        self.waiting = self.most = 0

    def read(self, name: str) -> bytes:
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            if self.most >= self._wanted:
                self._enough.set()
        assert self._enough.wait(10), f"only {self.most} requests at a time"
        with self._lock:
            self.waiting -= 1
        return name.encode().ljust(self._size, b"\0")


def read(server: Any, size: int, count: int) -> list[str]:
    entries = tuple(Entry(path=f"{number:04d}", size=size, etag="1") for number in range(count))
    shard = Shard(id="a", uri="u", bytes=size * count, etag="1", entries=entries)
    found = []
    for item in read_entries(RetryingStore(server), shard):
        assert isinstance(item, Image)
        assert item.data.startswith(item.key.encode())
        found.append(item.key)
    return found


def test_a_hundred_requests_are_under_way_at_a_time() -> None:
    server = Server(10, DISTANT_AHEAD)
    assert read(server, 10, 500) == [f"{number:04d}" for number in range(500)]
    assert server.most == DISTANT_AHEAD >= 100


def test_large_files_are_bounded_by_their_bytes() -> None:
    size = DISTANT_IN_FLIGHT // 4
    server = Server(size, 4)
    assert len(read(server, size, 9)) == 9
    assert server.most == 4
