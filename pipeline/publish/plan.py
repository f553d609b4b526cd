"""Plan: the difference between a source's listing and what the head has dealt with, as a pure value.

Both sides are streams sorted by path; memory holds one row of each and the columns of the result. Containers (tar,
Parquet) are shards by themselves; single images are packed into new shards, and what is packed already stays put.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import UserError
from pipeline.core.types import Entry, Shard

Status = Literal["keep", "add", "drop"]
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("shard", pa.string()),
        ("status", pa.string()),
    ]
)
_BATCH = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How single images are packed into shards: at most `files` files and about `bytes` bytes each."""

    files: int = 512
    bytes: int = 512 << 20


@dataclass(frozen=True, kw_only=True)
class Known:
    """An entry that the head has dealt with, and the shard it is in."""

    entry: Entry
    shard: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Rows (path, size, etag, shard, status) sorted by path; a changed entry has a "drop" row and an "add" row.

    reason says in words why there is, or is not, anything to do.
    """

    rows: pa.Table
    source: str
    packed: bool
    reason: str

    def of(self, status: Status) -> pa.Table:
        """Return the rows of one status."""
        return self.rows.filter(pc.equal(self.rows["status"], status))

    def count(self, status: Status) -> int:
        """Return how many entries have a status."""
        return int(self.of(status).num_rows)

    @property
    def bytes_to_read(self) -> int:
        """Size of everything that is to be extracted."""
        return int(pc.sum(self.of("add")["size"]).as_py() or 0)

    def shards(self) -> Iterator[Shard]:
        """Yield the shards to extract."""
        group: list[Entry] = []
        current = ""
        for entry, shard in _entries(self.of("add")):
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


def make_plan(listing: Iterable[Entry], known: Iterable[Known], *, source: str, packing: Packing | None) -> Plan:
    """Compare a sorted listing with the sorted known entries; packing None means that every entry is a shard."""
    columns = _Columns()
    pack = _Packer(source, packing)
    for entry, old in _merge_join(listing, known):
        if old is not None and entry is not None and old.entry == entry:
            columns.append(entry, old.shard, "keep")
            continue
        if old is not None:
            columns.append(old.entry, old.shard, "drop")
        if entry is not None:
            pack.add(entry)
            columns.append(entry, "", "add")
    table = columns.table(pack.finish())
    plan = Plan(rows=table, source=source, packed=packing is not None, reason="")
    added, dropped, kept = plan.count("add"), plan.count("drop"), plan.count("keep")
    if added or dropped:
        reason = f"{added} new or changed, {dropped} changed or gone, {kept} as they were"
    else:
        reason = f"nothing new: all {kept} are as they were"
    return Plan(rows=table, source=source, packed=packing is not None, reason=reason)


def join_url(base: str, path: str) -> str:
    """Return the location of a path beneath a folder; a base that is the file itself stays as it is."""
    return base if base.rsplit("/", 1)[-1] == path else f"{base.rstrip('/')}/{path}"


def _merge_join(listing: Iterable[Entry], known: Iterable[Known]) -> Iterator[tuple[Entry | None, Known | None]]:
    left, right = iter(listing), iter(known)
    entry, old = next(left, None), next(right, None)
    last = b""
    while entry is not None or old is not None:
        new_path = entry.path.encode() if entry is not None else None
        old_path = old.entry.path.encode() if old is not None else None
        if new_path is not None and new_path < last:
            raise UserError(f"listing of {entry.path if entry else ''}", "is not sorted", "report this source kind")
        if old_path is None or (new_path is not None and new_path < old_path):
            yield entry, None
            last, entry = new_path or last, next(left, None)
        elif new_path is None or old_path < new_path:
            yield None, old
            old = next(right, None)
        else:
            yield entry, old
            last, entry, old = new_path, next(left, None), next(right, None)


class _Packer:
    """Assigns shard ids to new entries in the order they come; ids depend on the entries packed together only."""

    def __init__(self, source: str, packing: Packing | None) -> None:
        self.source, self.packing = source, packing
        self.ids: list[str] = []
        self._files = self._bytes = 0
        self._hash = hashlib.sha256()

    def add(self, entry: Entry) -> None:
        if self._files and (
            self.packing is None or self._files >= self.packing.files or self._bytes + entry.size > self.packing.bytes
        ):
            self._close()
        where = join_url(self.source, entry.path)
        self._hash.update(f"{where}\0{entry.size}\0{entry.etag}\n".encode())
        self._files += 1
        self._bytes += entry.size

    def finish(self) -> list[str]:
        self._close()
        return self.ids

    def _close(self) -> None:
        self.ids += [self._hash.hexdigest()[:20]] * self._files
        self._files = self._bytes = 0
        self._hash = hashlib.sha256()


class _Columns:
    """Builds the plan's table in Arrow batches, so that a million rows are not a million Python objects."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, str, str, str]] = []
        self._batches: list[pa.RecordBatch] = []

    def append(self, entry: Entry, shard: str, status: Status) -> None:
        self._rows.append((entry.path, entry.size, entry.etag, shard, status))
        if len(self._rows) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [()] * len(SCHEMA)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self._rows = []

    def table(self, new_ids: list[str]) -> pa.Table:
        """Return the table, with the shard ids of "add" rows filled in, in order."""
        self._flush()
        table = pa.Table.from_batches(self._batches, schema=SCHEMA)
        added = pc.equal(table["status"], "add").combine_chunks()
        shards = pc.replace_with_mask(table["shard"].combine_chunks(), added, pa.array(new_ids, pa.string()))
        return table.set_column(SCHEMA.get_field_index("shard"), "shard", shards)


def known_entries(listing: pa.Table) -> Iterator[Known]:
    """Yield a head's listing manifest as known entries."""
    for entry, shard in _entries(listing):
        yield Known(entry=entry, shard=shard)


def _entries(table: pa.Table) -> Iterator[tuple[Entry, str]]:
    for batch in table.select(["path", "size", "etag", "shard"]).to_batches(max_chunksize=_BATCH):
        for path, size, etag, shard in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield Entry(path=path, size=size, etag=etag), shard
