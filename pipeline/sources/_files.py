"""What sources of single files share: reading packed entries ahead, and turning failures into rejects."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pipeline.core.errors import AccessError, NotFoundError, StoreError, TransientError
from pipeline.core.names import public_url
from pipeline.core.prefetch import ordered_map
from pipeline.core.storage import Store
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.sources import MAX_IMAGE_BYTES

READ_AHEAD = 8
"""Files read side by side: object stores answer slowly and many at a time."""
IN_FLIGHT = 64 << 20
NO_FILE = "no such file"


def read_entries(store: Store, shard: Shard) -> Iterator[Image | Reject]:
    """Yield the files of a packed shard in its order; the key is the path. TransientErrors are raised, for a retry."""
    base = public_url(store.url).rstrip("/")

    def read(entry: Entry) -> Image | Reject:
        uri = f"{base}/{entry.path}"
        if entry.size > MAX_IMAGE_BYTES:
            return Reject(key=entry.path, uri=uri, reason=too_large(entry.size), bytes=entry.size)
        try:
            data = store.read(entry.path)
            if len(data) != entry.size:
                data = store.read(entry.path)
        except (TransientError, AccessError):
            raise
        except NotFoundError:
            return Reject(key=entry.path, uri=uri, reason=NO_FILE, bytes=0)
        except StoreError as error:
            reason = str(error).removeprefix(f"{entry.path}: ")
            return Reject(key=entry.path, uri=uri, reason=f"cannot be read: {reason}", bytes=entry.size)
        if len(data) != entry.size:
            reason = f"has {len(data)} bytes where {entry.size} were listed"
            return Reject(key=entry.path, uri=uri, reason=reason, bytes=len(data))
        return Image(key=entry.path, uri=uri, data=data)

    with ThreadPoolExecutor(READ_AHEAD, "read") as pool:
        yield from ordered_map(
            read, shard.entries, pool=pool, ahead=4 * READ_AHEAD, budget=IN_FLIGHT, weigh=lambda entry: entry.size
        )


MISSING = "missing"
"""Etag of a named file that is not there: it stays an entry, and becomes a reject with that reason."""


class NamedFiles:
    """A Source of files that a list names, rather than found in a folder; see pipeline.sources.Source.

    Held in memory: it suits some ten million names. `match` is a glob; without one whoever names a file wants it,
    whatever its suffix.
    """

    def __init__(self, store: Store, names: Sequence[str], match: str) -> None:
        self._store = store
        wanted = {name for name in names if not match or fnmatch.fnmatchcase(name, match)}
        self._names = sorted(wanted, key=str.encode)
        self.skipped = len(names) - len(self._names)

    def listing(self) -> Iterator[Entry]:
        """Yield the files in byte order, with sizes and etags asked for some at a time."""
        with ThreadPoolExecutor(max_workers=READ_AHEAD) as pool:
            yield from pool.map(self._entry, self._names)

    def _entry(self, name: str) -> Entry:
        try:
            return self._store.stat(name)
        except (TransientError, AccessError):
            raise
        except StoreError:
            return Entry(path=name, size=0, etag=MISSING)

    def images(self, shard: Shard) -> Iterator[Image | Reject]:
        """Read the files of a packed shard; a name that is no file is told from one with a label after it."""
        for item in read_entries(self._store, shard):
            if isinstance(item, Reject) and item.reason == NO_FILE:
                yield replace(item, reason=f"{NO_FILE}{self._labelled(item.key)}")
            else:
                yield item

    def _labelled(self, line: str) -> str:
        """Return what more is to be said of a line that names no file: whether its beginning does."""
        parts = [part.strip().strip("\"'") for part in before_label(line)]
        path = next((part for part in parts if part and self._is_file(part)), "")
        return f"; the line seems to hold a label after the path {path!r}" if path else ""

    def _is_file(self, name: str) -> bool:
        try:
            return self._store.exists(name)
        except (TransientError, AccessError):
            raise
        except StoreError:
            return False


def before_label(line: str) -> list[str]:
    """Return what a line's path may be when something stands after it: up to the last separator, or to the first."""
    ends = [line.rpartition(mark)[0] for mark in ("\t", ",", ";", " ")]
    return [*ends, *(line.partition(mark)[0] for mark in ("\t", ",", ";", " ") if mark in line)]


def too_large(size: int) -> str:
    """Return the reason for an encoded image beyond the limit."""
    return f"larger than {MAX_IMAGE_BYTES >> 20} MiB encoded: {size} bytes"


def label(text: str) -> str:
    """Return a name fit for a key: what is not valid UTF-8 is shown as backslash escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
