"""What sources of single files share: reading packed entries ahead, and turning failures into rejects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from pipeline.core.errors import AccessError, NotFoundError, StoreError, TransientError, bare, of_reading
from pipeline.core.limited_pool import Limit, LimitedPool
from pipeline.core.names import escaped, public_url, unescaped
from pipeline.core.prefetch import ordered_map
from pipeline.core.storage import Store, file_name, is_distant
from pipeline.core.types import MISSING, Entry, Image, Reject, Shard
from pipeline.sources import MAX_IMAGE_BYTES
from pipeline.sources._hung import IMAGE_SECONDS, Hung, ReadsFiles

READ_AHEAD, IN_FLIGHT = 8, 64 << 20
"""Files read side by side, and their bytes at most."""
DISTANT_AHEAD, DISTANT_IN_FLIGHT = 128, 128 << 20
"""The same of object stores, which answer slowly and many at a time: at 40 ms an answer, 3,200 a second."""
READS = 2
"""Times that a file is read before it counts as unread."""
NO_FILE = "no such file"


def read_entries(store: Store, shard: Shard, seconds: float = IMAGE_SECONDS) -> Iterator[Image | Reject]:
    """Yield the files of a packed shard in its order; the key is the path. seconds: time limit of each; 0: none.

    What cannot be read now, or in time, is a Reject of status "unread", and so is what is not as it was listed: the
    next listing says more. AccessErrors are raised.
    """
    base = public_url(store.url).rstrip("/")

    def read_file(entry: Entry) -> Image | Reject:
        uri = f"{base}/{entry.path}"
        if entry.etag == MISSING:
            return Reject(key=entry.path, uri=uri, reason=NO_FILE, bytes=0)
        if entry.size > MAX_IMAGE_BYTES:
            return Reject(key=entry.path, uri=uri, reason=too_large(entry.size), bytes=entry.size)
        reason = ""
        for _ in range(READS):
            try:
                data = store.read(entry.path)
            except AccessError:
                raise
            except (StoreError, OSError, MemoryError) as error:
                reason = why_not(error, entry.path)
                if not of_reading(error) and not isinstance(error, NotFoundError):
                    return Reject(key=entry.path, uri=uri, reason=f"cannot be read: {reason}", bytes=entry.size)
                if isinstance(error, TransientError):
                    # The store has tried it again itself.
                    break
                continue
            if len(data) == entry.size:
                return Image(key=entry.path, uri=uri, data=data)
            reason = f"has {len(data)} bytes where {entry.size} were listed"
        return Reject(key=entry.path, uri=uri, reason=reason, bytes=entry.size, status="unread")

    hung = Hung(base, seconds)
    read = hung.counted(read_file)
    threads, budget = (DISTANT_AHEAD, DISTANT_IN_FLIGHT) if is_distant(store) else (READ_AHEAD, IN_FLIGHT)
    with LimitedPool(threads, "read", hung.limit) as pool:
        yield from ordered_map(
            read, shard.entries, pool=pool, ahead=4 * threads, budget=budget, weigh=lambda entry: entry.size
        )


class NamedFiles(ReadsFiles):
    """A Source of files that a list names, rather than found in a folder; see pipeline.sources.Source.

    Held in memory: it suits some ten million names. Whoever names a file wants it, whatever its suffix, unless the
    recipe's `match` or `exclude` say otherwise.
    """

    def __init__(self, store: Store, names: Sequence[str], selects: Callable[[str], bool]) -> None:
        self._store = store
        wanted = {name for name in names if selects(name)}
        self._names = sorted(wanted, key=str.encode)
        self.skipped, self.skipped_by = len(names) - len(self._names), Counter[str]()
        self.unreadable: list[str] = []

    def listing(self) -> Iterator[Entry]:
        """Yield the files in byte order, with sizes and etags asked for some at a time.

        Of what `unreadable` then names it is not known whether it is there: it is no entry, and not missing either.
        """
        self.unreadable.clear()
        limit = Limit(seconds=lambda _: self.image_seconds, late=self.unreadable.append)
        with LimitedPool(READ_AHEAD, "stat", limit) as pool:
            for entry in pool.map(self._entry, self._names):
                if entry is not None:
                    yield entry

    def _entry(self, name: str) -> Entry | None:
        try:
            return self._store.stat(name)
        except AccessError:
            raise
        except (StoreError, OSError) as error:
            if of_reading(error):
                self.unreadable.append(name)
                return None
            return Entry(path=name, size=0, etag=MISSING)

    def images(self, shard: Shard) -> Iterator[Image | Reject]:
        """Read the files of a packed shard; a name that is no file is told from one with a label after it."""
        for item in read_entries(self._store, shard, self.image_seconds):
            if isinstance(item, Reject) and item.reason == NO_FILE:
                yield replace(item, reason=f"{NO_FILE}{self._labelled(item.key)}")
            else:
                yield item

    def _labelled(self, line: str) -> str:
        """Return what more is to be said of a line that names no file: whether its beginning does."""
        parts = [part.strip().strip("\"'") for part in before_label(line)]
        path = next((part for part in parts if part and self._is_file(part)), "")
        if path:
            return f"; the line seems to hold a label after the path {path!r}"
        slashed = file_name(self._store, unescaped(line).replace("\\", "/"))
        if "\\" in line and self._is_file(slashed):
            return '; there is one of that name with "/" in place of each backslash'
        plain = line.strip("\"'")
        if plain not in ("", line) and self._is_file(plain):
            return "; there is one of that name without the quotes"
        return ""

    def _is_file(self, name: str) -> bool:
        try:
            return self._store.exists(name)
        except AccessError:
            raise
        except (StoreError, OSError):
            return False


def before_label(line: str) -> list[str]:
    """Return what a line's path may be when something stands after it: up to the last separator, or to the first."""
    ends = [line.rpartition(mark)[0] for mark in ("\t", ",", ";", " ")]
    return [*ends, *(line.partition(mark)[0] for mark in ("\t", ",", ";", " ") if mark in line)]


def why_not(error: BaseException, path: str) -> str:
    """Return why a file could not be read, in a few words that name no file."""
    if isinstance(error, NotFoundError):
        return "not there any more, though it was listed"
    if isinstance(error, MemoryError):
        return "not enough memory to read it"
    return " ".join(bare(error).split()).removeprefix(f"{path}: ") or type(error).__name__


def too_large(size: int) -> str:
    """Return the reason for an encoded image beyond the limit."""
    return f"larger than {MAX_IMAGE_BYTES >> 20} MiB encoded: {size} bytes"


def label(text: str) -> str:
    """Return a name fit for a key: what is not valid UTF-8 is shown as backslash escapes."""
    return escaped(text)
