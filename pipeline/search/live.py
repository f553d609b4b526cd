"""Follow the snapshots of a ROOT: the newest one answers, and none is closed while somebody uses it.

A new snapshot is opened beside the old one and takes over in one step; requests that began with the old one end with
it. The lease that is held meanwhile keeps both from being swept away. What is opened is the caller's business.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from pipeline.core.errors import SightlineError, UserError
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import SERVE, Held, Lease, LeaseTimes, hold
from pipeline.publish.snapshot import Snapshot

ATTEMPTS = 5
"""Between finding the newest snapshot and holding a lease on it, it may have been followed by others and given up."""
log = logging.getLogger(__name__)


class Closing(Protocol):
    """What can be opened and closed."""

    def close(self) -> None: ...  # noqa: D102 - lets go


T = TypeVar("T", bound=Closing)


@dataclass(eq=False)
class _Opened(Generic[T]):
    value: T
    version: int
    users: int = 0


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """every: seconds between looks for a new snapshot, 0 for never. lease: whether to hold one; ROOT is written for it.

    version: stay with this snapshot.
    """

    every: float = 10.0
    lease: bool = True
    version: int | None = None
    times: LeaseTimes = field(default_factory=LeaseTimes)


class Live(Generic[T]):
    """The newest snapshot of ROOT, opened by `opener`; thread-safe. Use as a context manager."""

    def __init__(self, root: str, opener: Callable[[Catalog, Snapshot], T], options: LiveOptions) -> None:
        self._catalog, self._opener, self._options = Catalog(open_store(root)), opener, options
        self._lock, self._refreshing = threading.Lock(), threading.Lock()
        self._ended = threading.Event()
        self._held: Held | None = None
        self._retired: list[_Opened[T]] = []
        self._stack = self._running()
        self._current: _Opened[T] | None = None
        self.failures = 0

    def __enter__(self) -> Live[T]:
        self._stack.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.__exit__(None, None, None)

    @contextmanager
    def _running(self) -> Iterator[None]:
        store = self._catalog.store
        lease = Lease(writer=uuid.uuid4().hex[:12], operation=SERVE)
        if self._options.lease:
            with hold(store, lease, self._options.times) as held:
                self._held = held
                yield from self._following()
        else:
            yield from self._following()

    def _following(self) -> Iterator[None]:
        self._current = self._open()
        thread = threading.Thread(target=self._follow, name="follow", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            for opened in (*self._retired, self._now):
                opened.value.close()

    @property
    def version(self) -> int:
        """The snapshot that answers now."""
        return self._now.version

    @property
    def _now(self) -> _Opened[T]:
        assert self._current is not None, "entered"
        return self._current

    @contextmanager
    def use(self) -> Iterator[T]:
        """Give the newest snapshot that is open; it stays open while the block runs."""
        with self._lock:
            mine = self._now
            mine.users += 1
        try:
            yield mine.value
        finally:
            with self._lock:
                mine.users -= 1
            self._close_if_over(mine)

    def _close_if_over(self, opened: _Opened[T]) -> None:
        with self._lock:
            over = opened in self._retired and not opened.users
            if over:
                self._retired.remove(opened)
        if over:
            opened.value.close()

    def refresh(self) -> bool:
        """Take up a newer snapshot if there is one; tell whether there was. Errors leave everything as it is."""
        with self._refreshing:
            if self._options.version is not None or self._catalog.versions()[-1:] == [self._now.version]:
                return False
            new = self._open()
            if new.version == self._now.version:
                new.value.close()
                return False
            with self._lock:
                old, self._current = self._now, new
                self._retired.append(old)
            self._close_if_over(old)
            return True

    def _follow(self) -> None:
        while self._options.every and not self._ended.wait(self._options.every):
            try:
                if self.refresh():
                    log.info("serving snapshot %d", self.version)
                self._pin()
            except SightlineError as error:
                # The old one goes on answering; the next look may find the store well again.
                self.failures += 1
                log.warning("cannot take up a new snapshot: %s", error)

    def _open(self) -> _Opened[T]:
        for attempt in range(ATTEMPTS):
            wanted = self._options.version
            snapshot = self._catalog.require_head() if wanted is None else self._catalog.load(wanted)
            self._pin(snapshot.version)
            try:
                # Lease first, mark second: a sweep looks the other way round.
                snapshot = self._catalog.load_kept(snapshot.version)
            except UserError:
                if wanted is not None or attempt == ATTEMPTS - 1:
                    raise
                continue
            return _Opened(self._opener(self._catalog, snapshot), snapshot.version)
        raise AssertionError("the last attempt returns or raises")

    def _pin(self, *more: int) -> None:
        """Name in the lease what is in use, and what is about to be."""
        if self._held is None:
            return
        with self._lock:
            opened = [*self._retired, *([self._current] if self._current is not None else [])]
        wanted = tuple(sorted({*more, *(one.version for one in opened)}))
        if wanted != self._held.lease.versions:
            self._held.pin(wanted)
