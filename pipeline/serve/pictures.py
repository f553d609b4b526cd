"""Thumbnails that were asked for lately, within a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict


class Pictures:
    """The pictures asked for last, by a tag of their content; room: bytes. Thread-safe."""

    def __init__(self, room: int) -> None:
        self._room, self._held = room, 0
        self._made: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, tag: str) -> bytes | None:
        """Return a picture, if it is kept."""
        with self._lock:
            if tag in self._made:
                self._made.move_to_end(tag)
            return self._made.get(tag)

    def put(self, tag: str, data: bytes) -> None:
        """Keep a picture, and let the oldest go."""
        with self._lock:
            self._held += len(data) - len(self._made.pop(tag, b""))
            self._made[tag] = data
            while self._held > self._room:
                self._held -= len(self._made.popitem(last=False)[1])
