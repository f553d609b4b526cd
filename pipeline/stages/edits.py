"""Edits: delete and restore images by name, roll back to an older snapshot. From lists to lists; publishes nothing.

A deletion outlives everything but an explicit restore: reruns, rebuilds, compaction and rollback bury the image again
(the rule is in deletions.py). A restore makes the source's entry look new, so that the next indexing run brings the
image back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.publish import manifests
from pipeline.publish.listing import SCHEMA as LISTING
from pipeline.publish.listing import Listing, NewListing
from pipeline.publish.lists import Lists
from pipeline.stages.deletions import BY_CONTENT, BY_KEY, COPY, IsRow, Rule, named, rule_of, with_copies
from pipeline.stages.find_rows import FindItem, FindKeys

STALE = ""
"""Etag of a container that has to be looked at again: no store gives it to an object."""


@dataclass(frozen=True, kw_only=True)
class Buried:
    """Lists without some images: the new lists, how many live images went, and which keys were found nowhere.

    deletions: rows for the table of deletions, without their version; a key that is a row number and whose image is
    deleted already has none. copies: key -> other live keys of equal content, where there are any.
    """

    lists: Lists
    images: int
    deletions: tuple[dict[str, Any], ...]
    unknown: tuple[str, ...]
    copies: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Image:
    """A row of a descriptor file; entry is the listed path that it lies in."""

    key: str
    uri: str
    sha256: str
    file: str
    row: int
    live: bool
    entry: str = ""


def bury(lists: Lists, keys: Iterable[str], find: FindKeys, is_row: IsRow, *, copies: bool = False) -> Buried:
    """Make tombstones of the live rows of some keys, and with `copies` of all that equal them.

    Every descriptor file is read, for the other keys that the same images go by.
    """
    wanted = list(dict.fromkeys(keys))
    old = manifests.tombstones(lists.tombstones)
    images = _by_key(lists, wanted, old, find)
    unknown = tuple(key for key in wanted if key not in images)
    equal = _live_copies(lists, {image.sha256 for image in images.values()}, old, find)
    if copies:
        images |= _by_key(lists, sorted({key for same in equal.values() for key in same} - images.keys()), old, find)
    equal = {sha256: tuple(key for key in same if key not in images) for sha256, same in equal.items()}
    rows: manifests.Rows = {}
    for image in images.values():
        rows = manifests.united(rows, {image.file: np.array([image.row], np.int64)})
    both = manifests.united(old, rows)
    return Buried(
        lists=replace(lists, tombstones=manifests.tombstone_table(both)),
        images=sum(image.live for image in images.values()),
        deletions=tuple(
            _deletion(image, equal[image.sha256], is_row)
            for image in images.values()
            if image.live or not is_row(image.key, image.uri)
        ),
        unknown=unknown,
        copies={key: equal[image.sha256] for key, image in images.items() if equal[image.sha256]},
    )


def _deletion(image: _Image, kept: Iterable[str], is_row: IsRow) -> dict[str, Any]:
    scope = BY_CONTENT if is_row(image.key, image.uri) else BY_KEY
    return {"key": image.key, "entry": image.entry, "sha256": image.sha256, "scope": scope, "kept": sorted(kept)}


def _by_key(lists: Lists, keys: list[str], dead: manifests.Rows, find: FindKeys) -> dict[str, _Image]:
    """Return the images of some keys, in their order, as the listing has them now."""
    entries, shards = _entries(lists.listing, keys)
    by_shard: dict[str, list[str]] = {}
    for key, entry in entries.items():
        by_shard.setdefault(shards[entry], []).append(key)
    there = manifests.among(lists.descriptors["shard_id"], pa.array(list(by_shard), pa.string()))
    files = manifests.descriptor_files(lists.descriptors.filter(there))
    items = (FindItem(file=file, keys=tuple(by_shard[file.shard_id])) for file in files)
    images = {image.key: replace(image, entry=entries[image.key]) for image in _found(items, (), dead, find)}
    return {key: images[key] for key in keys if key in images}


def _live_copies(lists: Lists, digests: set[str], dead: manifests.Rows, find: FindKeys) -> dict[str, tuple[str, ...]]:
    """Return the live keys of every image of some content, by content."""
    keys: dict[str, list[str]] = {sha256: [] for sha256 in digests}
    if digests:
        items = (FindItem(file=file) for file in manifests.descriptor_files(lists.descriptors))
        for image in _found(items, sorted(digests), dead, find):
            if image.live:
                keys[image.sha256].append(image.key)
    return {sha256: tuple(sorted(same)) for sha256, same in keys.items()}


def _found(items: Iterable[FindItem], digests: Iterable[str], dead: manifests.Rows, find: FindKeys) -> Iterator[_Image]:
    for item, found in find(items, tuple(digests)):
        gone = set(dead.get(item.file.id, np.zeros(0, np.int64)).tolist())
        for row in found.table.to_pylist():
            yield _Image(**row, file=item.file.id, live=row["row"] not in gone)


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """The lists of an older snapshot under the deletions of now, and how many of its live images these cost."""

    lists: Lists
    images: int


def roll_back(then: Lists, now: Lists, find: FindKeys, is_row: IsRow, *, packed: bool) -> RolledBack:
    """Return older lists in which everything is deleted that is deleted now, and what is restored looks new."""
    rule = rule_of(now.deletions, is_row)
    old = manifests.tombstones(then.tombstones)
    rows: manifests.Rows = {}
    copies: list[dict[str, Any]] = []
    if not now.deletions.equals(then.deletions):
        rows, copies = _deleted_since(then, now, rule, find, packed=packed)
    restored = {row["entry"] for row in then.deletions.to_pylist() if not rule.deletes(row["key"], row["sha256"])}
    both = manifests.united(old, rows)
    lists = replace(
        then,
        tombstones=manifests.tombstone_table(both),
        deletions=with_copies(now.deletions, [*_still_by_content(then, now, rule), *copies]),
        listing=reopened(then.listing, restored, packed=packed) if restored else then.listing,
    )
    return RolledBack(lists=lists, images=sum(len(both[name]) - len(old.get(name, ())) for name in rows))


def _still_by_content(then: Lists, now: Lists, rule: Rule) -> Iterator[dict[str, Any]]:
    """Yield what was deleted then, by whatever row, and is deleted now because its content is, as copies."""
    by_name = {(row["key"], row["sha256"]) for row in named(now.deletions).to_pylist()}
    for row in then.deletions.to_pylist():
        key, sha256 = row["key"], row["sha256"]
        if key not in rule.by_key and (key, sha256) not in by_name and rule.deletes(key, sha256):
            yield {**row, "scope": COPY, "kept": []}


def _deleted_since(
    then: Lists, now: Lists, rule: Rule, find: FindKeys, *, packed: bool
) -> tuple[manifests.Rows, list[dict[str, Any]]]:
    """Return the rows of older files that are deleted now, and the copies among them.

    What a file that is still there lost to a deletion is a tombstone now, so files that lost nothing are not read.
    """
    entries, shards = _entries(then.listing, sorted(rule.by_key))
    keys: dict[str, list[str]] = {}
    for key, entry in entries.items():
        keys.setdefault(shards[entry], []).append(key)
    before, after = manifests.tombstones(then.tombstones), manifests.tombstones(now.tombstones)
    there, none = set(now.descriptors["id"].to_pylist()), np.zeros(0, np.int64)
    lost = [
        name not in there or np.setdiff1d(after.get(name, none), before.get(name, none)).size > 0
        for name in then.descriptors["id"].to_pylist()
    ]
    files = manifests.descriptor_files(then.descriptors.filter(pa.array(lost, pa.bool_())))
    paths = {} if packed else _containers(then.listing)
    rows: manifests.Rows = {}
    copies: list[dict[str, Any]] = []
    for item, found in find((FindItem(file=f, keys=tuple(keys.get(f.shard_id, ()))) for f in files), rule.digests):
        live = found.without(before.get(item.file.id, none))
        verdict = rule.judge(live.table, paths.get(item.file.shard_id, ""))
        rows[item.file.id] = verdict.rows
        copies += verdict.copies
    return rows, copies


def _containers(listing: Listing) -> dict[str, str]:
    """Return shard -> path, where every entry is a shard."""
    paths: dict[str, str] = {}
    for batch in listing.batches():
        paths.update(zip(batch["shard"].to_pylist(), batch["path"].to_pylist(), strict=True))
    return paths


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
