"""Edits: delete and restore images by name, roll back to an older snapshot. From lists to lists; publishes nothing.

A deletion outlives everything but an explicit restore: reruns, rebuilds, compaction and rollback bury the key again. A
restore makes the source's entry look new, so that the next indexing run brings the image back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.publish import manifests
from pipeline.publish.listing import SCHEMA as LISTING
from pipeline.publish.listing import Listing, NewListing
from pipeline.publish.lists import Lists
from pipeline.stages.find_rows import FindItem, FoundRows

FindKeys = Callable[[Iterable[FindItem]], Iterator[tuple[FindItem, FoundRows]]]
"""Finds keys in descriptor files, by whatever runner there is."""
STALE = ""
"""Etag of a container that has to be looked at again: no store gives it to an object."""


@dataclass(frozen=True, kw_only=True)
class Buried:
    """Lists without some images: the new lists, how many live images went, and which keys were found nowhere."""

    lists: Lists
    images: int
    entries: dict[str, str]
    unknown: tuple[str, ...]


def bury(lists: Lists, keys: Iterable[str], find: FindKeys) -> Buried:
    """Make tombstones of the live rows of some keys; entries tells the listed entry that each key lies in."""
    wanted = list(dict.fromkeys(keys))
    entries, shards = _entries(lists.listing, wanted)
    by_shard: dict[str, list[str]] = {}
    for key, entry in entries.items():
        by_shard.setdefault(shards[entry], []).append(key)
    there = manifests.among(lists.descriptors["shard_id"], pa.array(list(by_shard), pa.string()))
    files = manifests.descriptor_files(lists.descriptors.filter(there))
    old = manifests.tombstones(lists.tombstones)
    rows: manifests.Rows = {}
    known: set[str] = set()
    for item, found in find(FindItem(file=file, keys=tuple(by_shard[file.shard_id])) for file in files):
        known.update(found.keys)
        rows[item.file.id] = found.rows
    both = manifests.united(old, rows)
    went = sum(len(both[name]) - len(old.get(name, ())) for name in rows)
    return Buried(
        lists=replace(lists, tombstones=manifests.tombstone_table(both)),
        images=went,
        entries={key: entry for key, entry in entries.items() if key in known},
        unknown=tuple(key for key in wanted if key not in known),
    )


def with_deletions(deletions: pa.Table, entries: dict[str, str], version: int) -> pa.Table:
    """Return the deletions with more of them, by key; one that is there already keeps its version."""
    known = set(deletions["key"].to_pylist())
    new = [{"key": key, "entry": entry, "version": version} for key, entry in entries.items() if key not in known]
    return pa.concat_tables([deletions, pa.Table.from_pylist(new, schema=manifests.DELETIONS)]).sort_by("key")


def without_deletions(deletions: pa.Table, keys: Iterable[str]) -> pa.Table:
    """Return the deletions without some keys."""
    return deletions.filter(pc.invert(manifests.among(deletions["key"], pa.array(list(keys), pa.string()))))


def reopened(listing: Listing, entries: Iterable[str], *, packed: bool) -> NewListing:
    """Return a listing in which some entries look new: packed files are left out, containers lose their etag."""
    names = pa.array(sorted(set(entries)), pa.string())
    result = NewListing()
    for batch in listing.batches():
        named = manifests.among(batch["path"], names)
        if packed:
            result.append(batch.filter(pc.invert(named)))
        else:
            etags = pc.if_else(named, STALE, batch["etag"])
            place = LISTING.get_field_index("etag")
            result.append(batch.set_column(place, LISTING.field("etag"), etags))
    return result.finish()


def _entries(listing: Listing, keys: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return (key -> the longest listed path that is the key or a folder above it, path -> shard)."""
    above = {key: [key[:end] for end in range(len(key), 0, -1) if end == len(key) or key[end] == "/"] for key in keys}
    candidates = pa.array(sorted({path for paths in above.values() for path in paths}), pa.string())
    shards: dict[str, str] = {}
    for batch in listing.batches():
        hits = batch.filter(manifests.among(batch["path"], candidates))
        shards.update(zip(hits["path"].to_pylist(), hits["shard"].to_pylist(), strict=True))
    entries = {key: next((path for path in paths if path in shards), "") for key, paths in above.items()}
    return {key: entry for key, entry in entries.items() if entry}, shards
