"""Files whose reading does not come back: each is unread after a time limit, and after some in a row the rest is."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.core.limited_pool import Limit
from pipeline.core.types import Entry, Image, Reject

IMAGE_SECONDS = 600.0
"""How long the reading of one file may take before it counts as unread, unless a run says otherwise."""
MOST_HUNG = 16
"""Files in a row that take longer before the rest of a shard is not tried: each costs a thread for good."""
LATE = "not read within its time limit"
NOT_TRIED = "not tried, as the reads before it failed"


class ReadsFiles:
    """What a Source of single files is, beside a Source. image_seconds: time limit of the reading of one; 0: none."""

    image_seconds: float = IMAGE_SECONDS


class Hung:
    """Counts the files of one shard that took too long, since the last one that was read. base: where the files lie."""

    def __init__(self, base: str, seconds: float) -> None:
        self._base, self._seconds, self._count = base, seconds, 0

    @property
    def limit(self) -> Limit:
        """The limit of reading a file."""
        return Limit(seconds=lambda _: self._seconds, late=self._late)

    def counted(self, read: Callable[[Entry], Image | Reject]) -> Callable[[Entry], Image | Reject]:
        """Return a function that reads a file, as long as not too many hung."""

        def tried(entry: Entry) -> Image | Reject:
            if self._count >= MOST_HUNG:
                return self._unread(entry, NOT_TRIED)
            item = read(entry)
            if isinstance(item, Image):
                self._count = 0
            return item

        return tried

    def _late(self, entry: Entry) -> Reject:
        self._count += 1
        return self._unread(entry, LATE)

    def _unread(self, entry: Entry, reason: str) -> Reject:
        uri = f"{self._base}/{entry.path}"
        return Reject(key=entry.path, uri=uri, reason=reason, bytes=entry.size, status="unread")
