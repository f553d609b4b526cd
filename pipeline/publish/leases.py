"""Leases: who is at work in a ROOT, so that nothing that is in use, or may be taken up, is collected.

A lease is an object that its holder rewrites at every beat. It is dead when the store's own clock says that it has not
been rewritten for long and it does not stir while it is being watched either: a clock that jumps kills no lease.
A sweep (see stages/expire.py) and the start of other work exclude each other: each first puts its lease and then looks
for the other's. The sweep gives way; the other waits until it has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic import ValidationError

from pipeline.core.errors import NotFoundError, SightlineError, StoreError
from pipeline.core.specs import canonical
from pipeline.core.storage import Store
from pipeline.core.types import Record

FOLDER = "leases"
SWEEP = "expire"
SERVE = "serve"
"""Reads the versions that its lease names and publishes nothing: a sweep keeps those; neither waits for the other."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """Seconds: between beats, until a silent lease is suspected, how long a suspect is watched, between looks."""

    beat: float = 20.0
    silent: float = 900.0
    watch: float = 60.0
    poll: float = 1.0


class Lease(Record):
    """Content of a lease. versions: snapshots in use beside the live ones."""

    writer: str
    operation: str
    beat: int = 0
    versions: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Where the lease lies."""
        return f"{FOLDER}/{self.writer}.json"


@dataclass
class Held:
    """A lease that this process holds; a thread renews it."""

    store: Store
    lease: Lease
    times: LeaseTimes
    _last: float = 0.0
    _named: tuple[int, ...] | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self) -> float:
        """Write the lease anew; return the store's time."""
        self._write(None)
        # From a listing, as the ages of all other objects: a server may round the time of a single one.
        times = [entry.modified for entry in self.store.list(FOLDER) if entry.path == self.lease.name]
        if not times:
            raise StoreError(f"{self.lease.name}: was taken away as soon as it had been written")
        return max(times)

    def _write(self, versions: tuple[int, ...] | None) -> None:
        """Write the next beat, naming other versions unless None."""
        with self._lock:
            if self._stop.is_set():
                raise StoreError(f"{self.lease.name}: has been let go")
            named = self.lease.versions if versions is None else versions
            self.lease = self.lease.model_copy(update={"beat": self.lease.beat + 1})
            lease = self.lease.model_copy(update={"versions": named})
            # Until the write has succeeded nobody knows what the store names.
            self._named = None
            self.store.write(lease.name, canonical(lease.model_dump(mode="json")))
            self.lease, self._named, self._last = lease, named, time.monotonic()

    @property
    def fresh(self) -> bool:
        """Whether nobody can hold this lease for dead yet."""
        return time.monotonic() - self._last < max(self.times.watch, 2 * self.times.beat) / 2

    def pin(self, versions: Iterable[int]) -> bool:
        """Have the store's lease name the snapshots in use and no others; tell whether it had been taken away.

        If it had, they may have been given up meanwhile: the caller looks for their marks next.
        """
        wanted = tuple(sorted(set(versions)))
        gone = not self.store.exists(self.lease.name)
        if gone or wanted != self._named:
            self._write(wanted)
        return gone

    def check(self) -> None:
        """Renew; a SightlineError when this process slept so long that others have taken the lease for dead."""
        if not self.store.exists(self.lease.name):
            raise SightlineError(
                f"{self.lease.name}: this run was held up for so long that its lease has lapsed; nothing was "
                "published, run the same command again, finished shards are not redone"
            )
        self.put()

    def keep(self) -> None:
        """Renew until told to stop; a beat that fails is tried at the next one, a lease taken away is not put back."""
        while not self._stop.wait(self.times.beat):
            try:
                if self.store.exists(self.lease.name):
                    self.put()
            except StoreError:
                continue
            except Exception:
                # Whatever it was: a lease that is no longer renewed costs its holder the run.
                log.exception("%s could not be renewed, the next beat tries again", self.lease.name)

    def release(self) -> None:
        """Stop renewing and remove the lease."""
        with self._lock:
            self._stop.set()
        self.store.delete(self.lease.name)


@contextmanager
def hold(store: Store, lease: Lease, times: LeaseTimes) -> Iterator[Held]:
    """Hold a lease while the block runs; a run's begins after waiting for sweeps that are under way.

    A sweep waits for nobody, nor does a reader: it opens the head, or looks for a mark (see decision 0006).
    """
    held = Held(store, lease, times)
    held.put()
    thread = threading.Thread(target=held.keep, name="lease", daemon=True)
    thread.start()
    try:
        if lease.operation not in (SWEEP, SERVE):
            outwait_sweeps(store, times)
        yield held
    finally:
        held.release()
        thread.join()


def read_leases(store: Store) -> list[tuple[Lease, float]]:
    """Return every lease and the store's time of its last beat; one that cannot be read counts as some work."""
    found = []
    for entry in store.list(FOLDER):
        stem = entry.path.rsplit("/", 1)[-1].removesuffix(".json")
        try:
            lease = Lease.model_validate_json(store.read(entry.path))
        except NotFoundError:
            continue
        except ValidationError:
            lease = Lease(writer=stem, operation="unknown")
        found.append((lease, entry.modified))
    return found


def live_leases(store: Store, *, now: float, times: LeaseTimes) -> list[Lease]:
    """Return the leases that are alive. Suspects are watched for `times.watch` seconds and removed if they lie still.

    now: the store's time.
    """
    leases = read_leases(store)
    suspects = [lease for lease, beat in leases if now - beat > times.silent]
    if not suspects:
        return [lease for lease, _ in leases]
    time.sleep(times.watch)
    alive = []
    for lease, _ in read_leases(store):
        if lease in suspects:
            store.delete(lease.name)
        else:
            alive.append(lease)
    return alive


def outwait_sweeps(store: Store, times: LeaseTimes) -> None:
    """Return when no sweep is under way. A sweep stops deleting before its lease could be held for dead."""
    still: dict[str, tuple[Lease, float]] = {}
    while True:
        sweeps = [lease for lease, _ in read_leases(store) if lease.operation == SWEEP]
        if not sweeps:
            return
        for lease in sweeps:
            seen, since = still.get(lease.writer, (None, 0.0))
            if seen != lease:
                still[lease.writer] = (lease, time.monotonic())
            elif time.monotonic() - since > times.watch:
                store.delete(lease.name)
        time.sleep(times.poll)
