"""Plan: the difference between a source's listing and what the head has dealt with, as a pure value.

Both sides are streams sorted by path, compared some thousand rows at a time; the result lies on disk, so memory does
not grow with images. Containers (tar, Parquet) are shards by themselves; single images are packed into new shards, and
what is packed already stays put.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import UserError
from pipeline.core.types import Entry, Shard
from pipeline.publish.listing import BATCH, Listing, Spool, aligned
from pipeline.publish.listing import SCHEMA as LISTING
from pipeline.publish.packing import Packer, Packing, Packs, join_url

Status = Literal["keep", "renew", "add", "drop"]
STATUSES: tuple[Status, ...] = ("keep", "renew", "drop", "add")
SCHEMA = LISTING.append(pa.field("status", pa.string()))
_ENTRIES = pa.schema([LISTING.field(name) for name in ("path", "size", "etag", "changed")])
IN_PLACE = "changed in place "
"""How the reason begins why a file is extracted again that has the size and etag it had."""
RANK = pa.array(STATUSES)


class Again(Protocol):
    """Chooses entries that are extracted again. reason: enters the ids of their new shards; it says which try it is."""

    @property
    def reason(self) -> str: ...  # noqa: D102 - see above

    def chosen(self, known: pa.Table) -> pa.Array:
        """Return for rows of a listing, null where an entry is new, which are chosen, as booleans without nulls."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Rows (path, size, etag, shard, changed, status) by path; a changed entry has a "drop" row and then an "add" row.

    One that only looked changed stays in its shard: its "renew" row gives it another etag (see renew.py).
    packs: the shards of the "add" rows in their order; None when the rows name their shards themselves.
    reason says in words why there is, or is not, anything to do.
    """

    spool: Spool
    packs: Packs | None
    source: str
    packed: bool
    reason: str
    counts: dict[str, int]
    bytes_to_read: int
    packing: Packing | None = None

    @property
    def changes(self) -> bool:
        """Whether there is anything to publish."""
        return any(self.counts[status] for status in STATUSES if status != "keep")

    def count(self, status: Status) -> int:
        """Return how many entries have a status."""
        return self.counts[status]

    @property
    def new_shards(self) -> int:
        """Shards to extract."""
        return len(self.packs.ids) if self.packs is not None else 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, a bounded number at a time."""
        start = 0
        for batch in self.spool.batches():
            if self.packs is None:
                yield batch
                continue
            added = pc.equal(batch["status"], "add")
            end = start + int(pc.sum(added).as_py() or 0)
            shards = pc.replace_with_mask(batch["shard"], added, self.packs.names(start, end))
            start = end
            yield batch.set_column(SCHEMA.get_field_index("shard"), SCHEMA.field("shard"), shards)

    @property
    def rows(self) -> pa.Table:
        """All rows in memory; for small plans."""
        return pa.Table.from_batches(self.batches(), SCHEMA)

    def shards(self) -> Iterator[Shard]:
        """Yield the shards to extract."""
        group: list[Entry] = []
        current = ""
        for batch in self.batches():
            for entry, shard in entries_of(batch.filter(pc.equal(batch["status"], "add"))):
                if group and shard != current:
                    yield self._shard(current, group)
                    group = []
                current = shard
                group.append(entry)
        if group:
            yield self._shard(current, group)

    def _shard(self, shard: str, entries: list[Entry]) -> Shard:
        alone = not self.packed and len(entries) == 1
        return Shard(
            id=shard,
            uri=join_url(self.source, entries[0].path) if alone else self.source,
            bytes=sum(entry.size for entry in entries),
            etag=entries[0].etag if alone else shard,
            entries=tuple(entries),
        )


def make_plan(
    listing: Iterable[Entry],
    known: Listing,
    *,
    source: str,
    packing: Packing | None,
    unreadable: Callable[[], Sequence[str]] = tuple,
    again: Again | None = None,
) -> Plan:
    """Compare a sorted listing with what is known; packing None means that every entry is a shard.

    unreadable: tells the files and folders that could not be listed so far, those before the last entry at least: what
    is known of them, or beneath them, is kept as it was.
    again: what is to be extracted again though it is, or may be, as it was.
    """
    pieces = aligned(_entry_batches(listing), known.batches(), (_ENTRIES, LISTING))
    return planned((_compare(new, old, unreadable(), again) for new, old in pieces), source=source, packing=packing)


def planned(pieces: Iterable[pa.Table], *, source: str, packing: Packing | None) -> Plan:
    """Return the plan of some rows, in order; the shards of "add" rows are decided here."""
    spool, pack = Spool(SCHEMA), Packer(source, packing)
    counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
    to_read = 0
    for rows in pieces:
        added = rows.filter(pc.equal(rows["status"], "add"))
        pack.add(added)
        to_read += int(pc.sum(added["size"]).as_py() or 0)
        for value in pc.value_counts(rows["status"].combine_chunks()).to_pylist():
            counts[value["values"]] += value["counts"]
        spool.append(rows)
    same = counts["keep"] + counts["renew"]
    if counts["add"] or counts["drop"]:
        reason = f"{counts['add']} new or changed, {counts['drop']} changed or gone, {same} as they were"
    else:
        reason = f"nothing new: all {same} are as they were"
    return Plan(
        spool=spool.finish(),
        packs=pack.finish(),
        source=source,
        packed=packing is not None,
        reason=reason,
        counts=counts,
        bytes_to_read=to_read,
        packing=packing,
    )


def _compare(new: pa.Table, old: pa.Table, unreadable: Sequence[str], again: Again | None) -> pa.Table:
    """Return the plan's rows for two aligned pieces. New rows to extract again have the reason as their shard.

    A file of the size and etag that it had may be another one where its file system says that it has changed since.
    """
    at = pc.index_in(new["path"], value_set=old["path"].combine_chunks()).combine_chunks()
    before = old.take(at)
    alike = pc.and_(pc.equal(new["size"], before["size"]), pc.equal(new["etag"], before["etag"]))
    alike = pc.fill_null(alike, fill_value=False)
    since = pc.fill_null(pc.not_equal(new["changed"], before["changed"]), fill_value=False)
    same = pc.and_(alike, pc.invert(since))
    # Its shard is another one than that of its size and etag, which has a record.
    reason = pc.binary_join_element_wise(IN_PLACE, pc.fill_null(pc.cast(new["changed"], pa.string()), ""), "")
    shard = pc.if_else(same, before["shard"], pc.if_else(alike, reason, ""))
    if again is not None:
        # One that only looks changed, too: its bytes are not to be compared.
        once_more = again.chosen(before)
        same = pc.and_(same, pc.invert(once_more))
        shard = pc.if_else(once_more, again.reason, shard)
    fresh = new.append_column("shard", shard).append_column("status", pc.if_else(same, "keep", "add"))
    fresh = fresh.select(SCHEMA.names).cast(SCHEMA)
    gone = np.ones(old.num_rows, bool)
    gone[at.filter(same.combine_chunks()).to_numpy(zero_copy_only=False)] = False
    if not gone.any():
        return fresh
    dropped = old.filter(pa.array(gone))
    # A changed entry has been listed, so that what is known of it is no better than what is new.
    lost = pc.and_(_beneath(dropped["path"], unreadable), pc.invert(pc.is_in(dropped["path"], _whole(new["path"]))))
    dropped = dropped.append_column("status", pc.if_else(lost, "keep", "drop"))
    return in_order(pa.concat_tables([fresh, dropped.cast(SCHEMA)]))


def _beneath(paths: pa.ChunkedArray, unreadable: Sequence[str]) -> pa.ChunkedArray | pa.Array:
    """Return which paths are one of the names, or lie in a folder of such a name; "" is the folder of all."""
    found = pa.array(np.zeros(len(paths), bool))
    for name in unreadable:
        folder = name.rstrip("/")
        within = pc.starts_with(paths, f"{folder}/" if folder else "")
        found = pc.or_(found, pc.or_(pc.equal(paths, folder), within))
    return found


def _whole(values: pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks()


def in_order(rows: pa.Table) -> pa.Table:
    """Return plan rows by path, "drop" before "add"."""
    ranked = rows.append_column("rank", pc.index_in(rows["status"], value_set=RANK))
    return ranked.sort_by([("path", "ascending"), ("rank", "ascending")]).drop_columns(["rank"])


def _entry_batches(listing: Iterable[Entry]) -> Iterator[pa.RecordBatch]:
    last = ""
    # Columns, not entries, are collected: a list of many small objects keeps the garbage collector busy.
    paths: list[str] = []
    sizes: list[int] = []
    etags: list[str] = []
    changed: list[int | None] = []
    for entry in listing:
        paths.append(entry.path)
        sizes.append(entry.size)
        etags.append(entry.etag)
        changed.append(entry.changed)
        if len(paths) == BATCH:
            yield _entry_batch(paths, sizes, etags, changed, last)
            last = paths[-1]
            paths, sizes, etags, changed = [], [], [], []
    if paths:
        yield _entry_batch(paths, sizes, etags, changed, last)


def _entry_batch(
    paths: list[str], sizes: list[int], etags: list[str], changed: list[int | None], last: str
) -> pa.RecordBatch:
    column = pa.array(paths, pa.string())
    before = pa.concat_arrays([pa.array([last], pa.string()), column[:-1]])
    if not pc.all(pc.less(before, column)).as_py():
        raise UserError(f"listing near {paths[0]}", "is not sorted, or names an entry twice", "report this")
    columns = [column, pa.array(sizes, pa.int64()), pa.array(etags, pa.string()), pa.array(changed, pa.int64())]
    return pa.RecordBatch.from_arrays(columns, schema=_ENTRIES)


def entries_of(rows: pa.Table | pa.RecordBatch) -> Iterator[tuple[Entry, str]]:
    """Yield the rows as (entry, shard)."""
    columns = (rows[name].to_pylist() for name in LISTING.names)
    for path, size, etag, shard, changed in zip(*columns, strict=True):
        yield Entry(path=path, size=size, etag=etag, changed=changed), shard
