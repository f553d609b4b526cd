"""Follow the snapshots of a ROOT: the newest one answers, and none is closed while somebody uses it.

A new snapshot is opened beside the old one and takes over in one step; requests that began with the old one end with
it. The lease that is held meanwhile keeps both from being swept away. What is opened is the caller's business.
One thread looks for new snapshots, after the lease, and closes what is no longer used: no request waits for any of it.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from pipeline.core.errors import SightlineError, UserError
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import SERVE, Held, Lease, LeaseTimes, hold, outwait_sweeps
from pipeline.publish.marks import expired
from pipeline.publish.snapshot import Snapshot

ATTEMPTS = 5
"""Between finding the newest snapshot and holding a lease on it, it may have been followed by others and given up."""
ENDING = 5.0
"""Seconds that the end waits for the following thread, which may be downloading a snapshot."""
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
        self._ended, self._wake = threading.Event(), threading.Event()
        self._held: Held | None = None
        self._unsure = False
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
            self._wake.set()
            thread.join(ENDING)
            with self._lock:
                # What is still being opened sees under the same lock that this is over, and is closed by its opener.
                rest = [*self._retired, self._now]
                self._retired.clear()
            for opened in rest:
                _close(opened)

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
                if not mine.users and mine in self._retired:
                    self._wake.set()

    def _close_unused(self) -> None:
        with self._lock:
            unused = [opened for opened in self._retired if not opened.users]
            self._retired = [opened for opened in self._retired if opened.users]
        for opened in unused:
            _close(opened)

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
                over = self._ended.is_set()
                if not over:
                    self._retired.append(self._now)
                    self._current = new
            if over:
                _close(new)
                return False
            self._wake.set()
            return True

    def _follow(self) -> None:
        beat = self._options.times.beat if self._held is not None else 0.0
        jobs = [(every, job) for every, job in ((self._options.every, self._look), (beat, self._keep)) if every]
        due = [time.monotonic() + every for every, _ in jobs]
        while True:
            self._wake.wait(max(0.0, min(due) - time.monotonic()) if due else None)
            self._wake.clear()
            if self._ended.is_set():
                return
            self._close_unused()
            for number, (every, job) in enumerate(jobs):
                if time.monotonic() >= due[number]:
                    self._try(job)
                    due[number] = time.monotonic() + every

    def _try(self, job: Callable[[], None]) -> None:
        # The old one goes on answering; the next look may find the store well again. Only the end ends this thread.
        try:
            job()
        except SightlineError as error:
            if not self._ended.is_set():
                self.failures += 1
                log.warning("the snapshots cannot be followed now: %s", error)
        except Exception:
            self.failures += 1
            log.exception("the snapshots cannot be followed now")

    def _look(self) -> None:
        if self.refresh():
            log.info("serving snapshot %d", self.version)
        self._keep()

    def _keep(self) -> None:
        """Put the lease back if it is gone, and let go in it what is no longer used."""
        with self._refreshing:
            self._pin()

    def _open(self) -> _Opened[T]:
        for attempt in range(ATTEMPTS):
            wanted = self._options.version
            snapshot = self._catalog.require_head() if wanted is None else self._catalog.load(wanted)
            self._pin(snapshot.version)
            try:
                # Lease first, mark second: a sweep looks the other way round.
                snapshot = self._catalog.load_kept(snapshot.version)
            except UserError:
                if attempt == ATTEMPTS - 1 or (wanted is not None and (self._held is None or attempt)):
                    raise
                if wanted is not None:
                    # A sweep that has just put this mark takes it back when it comes upon the lease.
                    outwait_sweeps(self._catalog.store, self._options.times)
                continue
            return _Opened(self._opener(self._catalog, snapshot), snapshot.version)
        raise AssertionError("the last attempt returns or raises")

    def _pin(self, *more: int) -> None:
        """Name in the lease what is in use, and what is about to be."""
        if self._held is None:
            return
        with self._lock:
            used = {opened.version for opened in self._retired if opened.users}
            used |= {self._current.version} if self._current is not None else set()
        self._unsure |= self._held.pin({*more, *used})
        if not self._unsure:
            return
        # The lease had been taken away: a sweep between then and now saw no reason to keep what is in use.
        lost = sorted(used & expired(self._catalog.store))
        self._unsure = False
        log.warning("the lease of this service had been taken away, and was put back")
        if lost:
            self.failures += 1
            log.warning("snapshot %s is in use and has expired meanwhile: requests may fail", ", ".join(map(str, lost)))


def _close(opened: _Opened[T]) -> None:
    """Close, whatever comes of it: nobody who could do anything about it waits for this."""
    try:
        opened.value.close()
    except Exception:
        log.exception("snapshot %d could not be closed", opened.version)
