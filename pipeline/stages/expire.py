"""Expire: give old snapshots up, and collect what nothing that is kept or in use reaches any more.

Kept are the head, tagged and leased snapshots, the latest few, and those superseded not long ago. An object goes when
no kept snapshot names it, it is older than the grace period by the store's clock, and no other work is under way that
could take it up. Completion records go before what they name, so a sweep may be killed and repeated at any point.
Names are compared as relative keys, never as URLs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from pydantic import ValidationError

from pipeline.core.errors import IntegrityError, NotFoundError, SightlineError, StoreError
from pipeline.core.storage import Store, discard, unfinished
from pipeline.core.types import Artifact, DescriptorFile, Entry, IndexShard
from pipeline.publish import manifests, marks
from pipeline.publish.catalog import Catalog
from pipeline.publish.failures import needed
from pipeline.publish.leases import SERVE, SWEEP, Held, live_leases
from pipeline.publish.lists import load_lists
from pipeline.publish.snapshot import Snapshot

DAY = 86_400.0
DATA = ("descriptors", "indexes", "artifacts", "manifests")
FITS = ("/whitening.safetensors", "/codebook.safetensors")


@dataclass(frozen=True, kw_only=True)
class Retention:
    """keep_last: latest snapshots kept; keep_seconds: how long one is kept after it was superseded; grace_seconds: age
    that an object must have reached.
    """

    keep_last: int = 1
    keep_seconds: float = 7 * DAY
    grace_seconds: float = 7 * DAY


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is to go: versions given up, records and then data to delete; busy: operations that nothing may go under.

    unfinished: temporary files and uploads of writers that were killed. unlisted: why the store names none of them.
    """

    kept: tuple[int, ...]
    given_up: tuple[int, ...]
    records: tuple[Entry, ...]
    data: tuple[Entry, ...]
    busy: tuple[str, ...]
    unfinished: tuple[Entry, ...] = ()
    unlisted: str = ""

    @property
    def objects(self) -> tuple[Entry, ...]:
        """Everything to delete, in the order of deletion."""
        return (*self.records, *self.data, *self.unfinished)


def plan_sweep(catalog: Catalog, retention: Retention, *, now: float, held: Held | None = None) -> Sweep:
    """Decide what goes. With `held`, the sweep's own lease, versions are marked as given up; without, nothing is
    written.
    """
    store = catalog.store
    kept, given_up = _versions(catalog, retention, now)
    leased: set[int] = set()
    busy: tuple[str, ...] = ()
    if held is not None:
        before = marks.expired(store)
        for version in given_up:
            marks.mark_expired(store, version)
        # Marks first, leases second: whoever takes up an old snapshot does it the other way round.
        leases = live_leases(store, now=held.put(), times=held.times)
        others = [x for x in leases if x.operation != SWEEP]
        leased = {version for lease in others for version in lease.versions} | set(marks.tags(store).values())
        sweeping = any(x.operation == SWEEP and x.writer != held.lease.writer for x in leases)
        # Most of what was marked before is gone: a lease on it revives nothing. A sweep that was killed between its
        # marks and its deletions, though, or has just begun, leaves marks on what is whole, and perhaps in use.
        leased = {x for x in leased & given_up if x not in before or _whole(catalog, x)}
        for version in leased - (before if sweeping else set()):
            marks.unmark_expired(store, version)
        working = (lease for lease in others if lease.operation != SERVE)
        busy = tuple(sorted(f"{lease.operation} by writer {lease.writer}" for lease in working))
        # A commit since the first look belongs to a lease that was read, or is found now.
        marked = given_up
        kept, given_up = _versions(catalog, retention, now)
        # What was superseded since bears no mark, so a reader may be about to use it: the next sweep's.
        leased |= given_up - marked
    kept, given_up = kept | (leased & given_up), given_up - leased
    if busy:
        return Sweep(kept=tuple(sorted(kept)), given_up=tuple(sorted(given_up)), records=(), data=(), busy=busy)
    records, data = _garbage(catalog, kept, now - retention.grace_seconds)
    records = (*records, *_spent_failures(catalog, now - retention.grace_seconds))
    left, unlisted = _left_behind(store, now - retention.grace_seconds)
    return Sweep(
        kept=tuple(sorted(kept)),
        given_up=tuple(sorted(given_up)),
        records=records,
        data=data,
        busy=(),
        unfinished=left,
        unlisted=unlisted,
    )


def sweep_away(store: Store, sweep: Sweep, held: Held) -> Iterator[Entry]:
    """Delete what a sweep decided, yielding each object when it is gone; stops when the lease grows old."""
    for number, entry in enumerate(sweep.objects):
        if number % 256 == 0 or not held.fresh:
            others = [lease.operation for lease in live_leases(store, now=held.put(), times=held.times)]
            if any(operation not in (SWEEP, SERVE) for operation in others):
                return
        if not held.fresh:
            raise SightlineError("the sweep was held up and stopped; nothing in use was deleted, run it again")
        if number < len(sweep.records) + len(sweep.data):
            store.delete(entry.path)
        else:
            discard(store, entry)
        yield entry


def _spent_failures(catalog: Catalog, before: float) -> Iterator[Entry]:
    """Yield what is remembered, since before that time, of containers that no run over the head's source would read."""
    for entry, is_needed in needed(catalog, catalog.require_head()):
        if entry.modified <= before and not is_needed:
            yield entry


def _left_behind(store: Store, before: float) -> tuple[tuple[Entry, ...], str]:
    """Return what killed writers left and last touched before that time; and why not, where it may not be listed."""
    try:
        return tuple(entry for entry in unfinished(store) if entry.modified <= before), ""
    except StoreError as error:
        return (), str(error)


def _versions(catalog: Catalog, retention: Retention, now: float) -> tuple[set[int], set[int]]:
    """Return (versions kept, versions given up), by their own store's times and by tags."""
    entries = list(catalog.store.list("snapshots"))
    times = {int(e.path[-13:-5]): e.modified for e in entries if e.path[-13:-5].isdigit()}
    versions = sorted(times)
    kept = set(versions[max(0, len(versions) - max(1, retention.keep_last)) :])
    for version, successor in pairwise(versions):
        if now - times[successor] < retention.keep_seconds:
            kept.add(version)
    kept |= set(marks.tags(catalog.store).values()) & set(versions)
    # What has once been given up may be half gone: it never comes back by a longer retention.
    kept -= marks.expired(catalog.store) - set(versions[-1:])
    return kept, set(versions) - kept


def _whole(catalog: Catalog, version: int) -> bool:
    """Tell whether everything that a snapshot names is still there."""
    names = {entry.path for folder in DATA for entry in catalog.store.list(folder)}
    try:
        return names.issuperset(_reached(catalog, [catalog.load(version)]))
    except (IntegrityError, NotFoundError):
        return False


def _reached(catalog: Catalog, snapshots: Iterable[Snapshot]) -> Iterator[str]:
    """Yield the name of every object that a snapshot names."""
    seen: set[str] = set()
    for snapshot in snapshots:
        parts = (snapshot.listing, snapshot.descriptors, snapshot.indexes, snapshot.tombstones, snapshot.deletions)
        yield from (part.uri for part in (*parts, *snapshot.artifacts) if part is not None)
        if {snapshot.descriptors.uri, snapshot.indexes.uri} <= seen:
            continue
        seen |= {snapshot.descriptors.uri, snapshot.indexes.uri}
        lists = load_lists(catalog, snapshot)
        for table, columns in ((lists.descriptors, ("artifact", "rejects")), (lists.indexes, ("artifact", "trained"))):
            for column in columns:
                yield from manifests.uris(table, column)


def _garbage(catalog: Catalog, kept: Iterable[int], before: float) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """Return (completion records, data) that nothing kept reaches, last written `before` that time."""
    store = catalog.store
    reached = set(_reached(catalog, (catalog.load(version) for version in sorted(kept))))
    data: dict[str, Entry] = {}
    records: dict[str, Entry] = {}
    for folder in DATA:
        for entry in store.list(folder):
            if entry.path.endswith(".json"):
                records[entry.path] = entry
            elif entry.modified <= before and entry.path not in reached:
                data[entry.path] = entry
    unfinished_runs = _unfinished_runs(catalog, records.values(), reached, before)
    data = {path: entry for path, entry in data.items() if not path.startswith(unfinished_runs)}
    spent = []
    shards = {_record_of(path) for path in data if path.startswith("descriptors/")}
    for name, entry in records.items():
        # There are as many records as shards: only those beside a file that would go are read.
        if name.startswith("descriptors/") and name not in shards:
            continue
        named = _named(store, name)
        if named is not None and all(uri in data or not (uri in reached or store.exists(uri)) for uri in named):
            # Without its fits, few and small, what an unfinished run has made is worth nothing.
            needed = unfinished_runs and bool(named) and named[0].endswith(FITS)
            if entry.modified <= before and not needed:
                spent.append(entry)
            else:
                # A run may still take up what a young record names, however old the data are.
                for uri in named:
                    data.pop(uri, None)
    return tuple(spent), tuple(data.values())


def _unfinished_runs(catalog: Catalog, records: Iterable[Entry], reached: set[str], before: float) -> tuple[str, ...]:
    """Return the folders of descriptors of unfinished runs, which their reruns take up.

    Such a folder is as young as the newest shard in it that was never published: a run of many days that was killed has
    old shards, too.
    """
    young = {entry.path for entry in records if entry.path.startswith("descriptors/") and entry.modified > before}
    young -= {_record_of(path) for path in reached}
    if not young:
        return ()
    # What was published and given up since is no part of a run. The snapshot that named it first is younger than it.
    for entry in catalog.store.list("snapshots"):
        if entry.modified > before and entry.path[-13:-5].isdigit():
            try:
                part = catalog.load(int(entry.path[-13:-5])).descriptors
                table = manifests.from_parquet(catalog.read(part), manifests.DESCRIPTORS, part.uri)
            except (IntegrityError, NotFoundError):
                continue
            young -= {_record_of(path) for path in manifests.uris(table, "artifact")}
    return tuple(sorted({f"{name.rpartition('/')[0]}/" for name in young}))


def _record_of(path: str) -> str:
    """Return the name of the completion record beside a descriptor file or its rejects."""
    return f"{path.removesuffix('.parquet').removesuffix('.rejects').rpartition('-')[0]}.json"


def _named(store: Store, record: str) -> list[str] | None:
    """Return the objects that a completion record names, none when it is malformed; None when it is not there."""
    try:
        data = store.read(record)
        if record.startswith("artifacts/"):
            return [Artifact.model_validate_json(data).uri]
        if record.startswith("indexes/"):
            return [IndexShard.model_validate_json(data).artifact.uri]
        file = DescriptorFile.model_validate_json(data)
    except NotFoundError:
        return None
    except ValidationError:
        return []  # It counts as absent, see Catalog.record.
    return [file.artifact.uri] + ([file.rejects.uri] if file.rejects is not None else [])
