"""RetryingStore: tries what can pass again, a bounded number of times with growing, jittered pauses.

Only TransientError is retried. A create that met its own earlier try is told from a lost race by reading back.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from pipeline.core.errors import ExistsError, NotFoundError, TransientError
from pipeline.core.names import flat_name
from pipeline.core.ranges import BLOCK, RangeFile
from pipeline.core.types import Entry

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """attempts in all; the pause before try i is up to base * 2**i seconds, at most `longest` (full jitter)."""

    attempts: int = 7
    base: float = 0.2
    longest: float = 15.0

    def pause(self, tries: int) -> float:
        """Return the seconds to wait after so many failed tries."""
        return random.uniform(0.5, 1.0) * min(self.longest, self.base * 2.0**tries)  # noqa: S311 - not for secrets


_TOTAL = [0]
_LOCK = threading.Lock()


def _count() -> None:
    with _LOCK:
        _TOTAL[0] += 1


def total() -> int:
    """Return how many requests of this process have been tried again so far."""
    return _TOTAL[0]


class RemoteStore(Protocol):
    """What a store of a distant server offers: requests, each of which may fail by itself."""

    url: str

    def page(self, prefix: str, after: str) -> tuple[list[Entry], str]:
        """Return one page of a listing, and the mark to go on from; "" at the end."""
        ...

    def stat(self, name: str) -> Entry: ...  # noqa: D102 - as in Store
    def read(self, name: str) -> bytes: ...  # noqa: D102
    def read_range(self, name: str, start: int, end: int, etag: str) -> bytes: ...  # noqa: D102
    def write(self, name: str, data: bytes) -> None: ...  # noqa: D102
    def put_if_absent(self, name: str, data: bytes) -> None: ...  # noqa: D102
    def upload(self, path: Path, name: str) -> None: ...  # noqa: D102
    def delete(self, name: str) -> None: ...  # noqa: D102

    def uploads(self, after: tuple[str, str]) -> tuple[list[Entry], tuple[str, str] | None]:
        """Return one page of the uploads that have not been completed, and the mark to go on from; None at the end."""
        ...

    def abort(self, name: str, upload: str) -> None:
        """Abort an upload; harmless when there is none."""
        ...


class RetryingStore:
    """A Store over a RemoteStore; see the module."""

    def __init__(self, inner: RemoteStore, policy: RetryPolicy | None = None) -> None:
        self.inner, self.policy = inner, policy or RetryPolicy()

    def __reduce__(self) -> tuple[Any, ...]:
        return RetryingStore, (self.inner, self.policy)

    @property
    def url(self) -> str:
        """Where the store is, fit to be shown."""
        return self.inner.url

    def _try(self, call: Callable[[], T]) -> T:
        for tries in range(1, self.policy.attempts):
            try:
                return call()
            except TransientError:
                _count()
                time.sleep(self.policy.pause(tries))
        return call()

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """List page after page, each with its own tries; holds one page at a time."""
        mark = ""
        while True:
            entries, mark = self._try(lambda at=mark: self.inner.page(prefix, at))  # type: ignore[misc]
            yield from entries
            if not mark:
                return

    def stat(self, name: str) -> Entry:
        """Return size, etag and time."""
        return self._try(lambda: self.inner.stat(name))

    def exists(self, name: str) -> bool:
        """Tell whether the object exists."""
        try:
            self.stat(name)
        except NotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes:
        """Return the object's bytes."""
        return self._try(lambda: self.inner.read(name))

    def open(self, name: str) -> BinaryIO:
        """Open for seekable reading by ranges of the version that is there now, each range with its own tries."""
        entry = self.stat(name)

        def fetch(start: int, end: int) -> bytes:
            return self._try(lambda: self.inner.read_range(name, start, end, entry.etag))

        return cast("BinaryIO", RangeFile(fetch, entry.size, block=BLOCK))

    def write(self, name: str, data: bytes) -> None:
        """Put the object; writing the same twice is harmless."""
        self._try(lambda: self.inner.write(name, data))

    def put_if_absent(self, name: str, data: bytes) -> None:
        """Create the object. After a failure of unknown outcome, an object equal to ours is ours."""
        unsure = False
        for tries in range(1, self.policy.attempts + 1):
            try:
                self.inner.put_if_absent(name, data)
            except TransientError:
                if tries == self.policy.attempts:
                    raise
                unsure = True
                _count()
                time.sleep(self.policy.pause(tries))
            except ExistsError:
                if unsure and self.read(name) == data:
                    return
                raise
            else:
                return

    def upload(self, path: Path, name: str) -> None:
        """Put the object from a file."""
        self._try(lambda: self.inner.upload(path, name))

    def local(self, name: str, folder: Path) -> Path:
        """Download the object into `folder`, a part at a time."""
        target = folder / flat_name(name)
        with self.open(name) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, BLOCK)
        return target

    def delete(self, name: str) -> None:
        """Delete the object."""
        self._try(lambda: self.inner.delete(name))

    def unfinished(self) -> Iterator[Entry]:
        """Yield the uploads that have not been completed; etag: the upload's own id."""
        mark: tuple[str, str] | None = ("", "")
        while mark is not None:
            entries, mark = self._try(lambda at=mark: self.inner.uploads(at))  # type: ignore[misc]
            yield from entries

    def discard(self, entry: Entry) -> None:
        """Abort an upload."""
        self._try(lambda: self.inner.abort(entry.path, entry.etag))
