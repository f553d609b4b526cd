"""Entries that could not be read now: kept out of what a shard records, so that the next run finds them new.

A packed shard of which some entries were unread is completed as a shard of the others, under an id of its own: a record
is always of whole shards, and is never about what happened to be unreadable. A container is read whole or not at all.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from pipeline.core.errors import ReadError, of_reading
from pipeline.core.types import Image, Reject, Shard
from pipeline.sources._hung import NOT_TRIED as NOT_TRIED
from pipeline.stages.describe import Described

R = TypeVar("R")

MAX_READ_ERRORS = 100
"""So many reads that fail in a row, without one that succeeds, mean that the place is away, not a few files."""
PAUSES = (0.2, 0.5)
"""Seconds before a container that could not be read is tried again."""

Unread = tuple[tuple[str, str], ...]
"""(path, reason) of entries, in the order of the shard."""


def patient(items: Iterable[Image | Reject], shard: Shard, limit: int) -> Iterator[Image | Reject]:
    """Pass on the items of a packed shard, one per entry; after `limit` failed reads in a row the rest is not tried."""
    failed = 0
    for place, item in enumerate(items, start=1):
        yield item
        failed = failed + 1 if isinstance(item, Reject) and item.status == "unread" else 0
        if failed >= limit:
            for entry in shard.entries[place:]:
                yield Reject(key=entry.path, uri=shard.uri, reason=NOT_TRIED, bytes=entry.size, status="unread")
            return


def persistent(read: Callable[[], R], pauses: Iterable[float] = PAUSES) -> R:
    """Return what `read` returns; errors of reading are tried again after each pause."""
    for pause in pauses:
        try:
            return read()
        except Exception as error:
            if not of_reading(error):
                raise
        time.sleep(pause)
    return read()


def separated(described: Described, shard: Shard, *, packed: bool) -> tuple[Described, Unread]:
    """Return what a shard gave without the entries that were unread, and these.

    ReadError when nothing can be recorded: a container is whole or nothing, and so is a shard without one entry read.
    """
    unread = [reject for reject in described.rejects if reject.status == "unread"]
    if not unread:
        return described, ()
    paths = {entry.path for entry in shard.entries}
    if not packed or len(unread) == len(paths) or not all(reject.key in paths for reject in unread):
        raise ReadError(_line(unread, len(paths) if packed else 0))
    rest = [reject for reject in described.rejects if reject.status != "unread"]
    return replace(described, rejects=rest), tuple((reject.key, reject.reason) for reject in unread)


def part(shard: Shard, unread: Unread) -> Shard:
    """Return the shard of the other entries; its id says which they are."""
    if not unread:
        return shard
    paths = {path for path, _ in unread}
    entries = tuple(entry for entry in shard.entries if entry.path not in paths)
    parts = "\0".join(["part", shard.id, *sorted(paths)])
    name = hashlib.sha256(parts.encode()).hexdigest()[:20]
    return replace(shard, id=name, entries=entries, bytes=sum(entry.size for entry in entries))


def _line(unread: list[Reject], entries: int) -> str:
    # The reason comes first: what is counted by reason is cut at the first colon.
    first, of = unread[0], f" of {entries}" if entries else ""
    return f"{first.reason}: {len(unread)}{of} images could not be read, e.g. {first.key}"
