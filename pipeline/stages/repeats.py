"""Images of a shard that have equal keys: which of them counts, and what is recorded of the others.

"duplicate" is said of equal bytes only; another image of the same key is a reject whose reason says what happened.
Where the first counts, the others are not described; where the last does, that is known at the end.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.core.types import Image, Reject
from pipeline.table import ImageRow

EARLIER = "an earlier image of the shard has the same key"
LATER = "a later member has the same name"
LATER_SAME = "a later member has the same name and the same bytes"
SAME = "another image of the shard has the same key"


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """An image whose key an earlier one of its shard has, where the first counts: what is recorded of it unless its
    bytes, with this digest, are those of the first."""

    reject: Reject
    sha256: str


class Repeats:
    """What is known of the keys of a shard while its images are read. last_counts: of equal keys the last one counts.

    skipped: counts of what a container has and is not to be indexed, by Reject.reason.
    """

    def __init__(self, last_counts: bool) -> None:
        self._last_counts = last_counts
        self._rows: dict[str, int] = {}
        self._repeats: list[Repeat] = []
        self.skipped: Counter[str] = Counter()

    def admitted(self, items: Iterable[Image | Reject]) -> Iterator[Image | Reject | Repeat]:
        """Yield what is to be looked at, marking all but the first of equal keys where that counts."""
        seen: set[str] = set()
        for item in items:
            if isinstance(item, Reject) and item.status == "skipped":
                self.skipped[item.reason] += 1
            elif not self._last_counts and isinstance(item, Image) and item.key in seen:
                digest = hashlib.sha256(item.data).hexdigest()
                reject = Reject(key=item.key, uri=item.uri, reason=EARLIER, bytes=len(item.data), sha256=digest)
                yield Repeat(reject=reject, sha256=digest)
            else:
                if not self._last_counts:
                    seen.add(item.key)
                yield item

    def note(self, key: str, row: int) -> None:
        """Note that the next item of a key has a row; -1 for a reject."""
        if self._last_counts or key not in self._rows:
            self._rows[key] = row

    def add(self, repeat: Repeat) -> None:
        """Take in an image that is not described."""
        self._repeats.append(repeat)

    def settled(self, images: Sequence[tuple[ImageRow, int]]) -> tuple[list[Reject], dict[int, Reject]]:
        """Return what is recorded of images that were not described, and of rows that do not count, by row.

        images: the rows, with their encoded sizes.
        """
        repeats = []
        for repeat in self._repeats:
            row = self._rows[repeat.reject.key]
            same = row >= 0 and images[row][0].sha256 == repeat.sha256
            repeats.append(replace(repeat.reject, reason=SAME, status="duplicate") if same else repeat.reject)
        rows = {}
        for row, (image, size) in enumerate(images):
            last = self._rows[image.key]
            if last != row:
                reject = Reject(key=image.key, uri=image.uri, reason=LATER, bytes=size, sha256=image.sha256)
                same = last >= 0 and images[last][0].sha256 == image.sha256
                rows[row] = replace(reject, reason=LATER_SAME, status="duplicate") if same else reject
        return repeats, rows
