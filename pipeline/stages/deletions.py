"""Deletions: the rule by which an image counts as deleted. From tables to tables; reads no file, publishes nothing.

A row of the table (manifests.DELETIONS) is made by `delete` for each key named, with the sha256 of the image that the
key had then. Its scope says what it holds for:

- "key" (also null, in manifests of older releases): whatever comes under that key is deleted, whatever it holds.
- "content": the key is the number of a row, which another image has once rows are added or removed before it. Such a
  deletion never holds by key.
- "copy": made by indexing, not by a user: an image that came after a deletion, under another key, with its content. It
  says which entry has to be looked at again when the deletion is restored, and holds for nothing by itself.

Rows of the first two scopes that know a sha256 hold by content as well: every image of that content is deleted that
comes into the collection, by whatever path (index, changed shard, rebase, new recipe, rollback), except under the keys
in `kept`: copies that were live when the key was deleted, and were not named. Of several deletions of one content the
last one counts: the copies that it found live are those that the earlier ones had kept.

Copies in a container whose keys are row numbers move with their rows. They are equal, so it does not matter which of
them stays: as many as were kept in that container, those under their own numbers first, then the others in row order.

What follows: a deleted image that is renamed stays deleted; so does a kept copy that is renamed, since nothing tells it
from the deleted image. `restore` of its key adds that key to the copies that stay. The rule depends on the table and on
one descriptor file at a time only, never on the order in which files come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.types import Ints
from pipeline.publish import manifests

BY_KEY, BY_CONTENT, COPY = "key", "content", "copy"
"""Scopes; see the module."""
IsRow = Callable[[str, str], bool]
"""Tells from (key, uri) whether a key is the number of a row; see SourceSpec.key_is_row."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Which images of a descriptor file are deleted: their sorted numbers (n,). copies: rows of scope "copy"."""

    rows: Ints
    copies: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A table of deletions, ready to judge. kept: sha256 of deleted content -> keys under which it stays.

    versions: the snapshot that first deleted each content.
    """

    by_key: frozenset[str]
    kept: dict[str, frozenset[str]]
    versions: dict[str, int]
    is_row: IsRow

    @property
    def digests(self) -> tuple[str, ...]:
        """The deleted contents, sorted."""
        return tuple(sorted(self.kept))

    def deletes(self, key: str, sha256: str | None) -> bool:
        """Tell whether an image is deleted, rows that moved left aside."""
        return key in self.by_key or (sha256 in self.kept and key not in self.kept[sha256])

    def judge(self, found: pa.Table, entry: str) -> Verdict:
        """Return what is deleted among images of one file (FOUND); entry: the container they lie in, "" if in none."""
        images = found.to_pylist()
        deleted = [image for image in images if self.deletes(image["key"], image["sha256"])]
        stay = self._moved(images, deleted, entry) if entry else frozenset()
        rows = [image["row"] for image in deleted if image["row"] not in stay]
        copies = (
            self._copy(image["key"], image["sha256"], entry)
            for image in deleted
            if image["row"] not in stay and image["key"] not in self.by_key
        )
        return Verdict(rows=np.array(rows, np.int64), copies=tuple(copies))

    def _copy(self, key: str, sha256: str, entry: str) -> dict[str, Any]:
        version = self.versions[sha256]
        return {"key": key, "entry": entry or key, "version": version, "sha256": sha256, "scope": COPY, "kept": []}

    def _moved(self, images: list[Any], deleted: list[Any], entry: str) -> frozenset[int]:
        """Return the rows that stay because they are kept copies under other row numbers."""
        present = {(image["key"], image["sha256"]) for image in images}
        stay: set[int] = set()
        for sha256 in sorted({image["sha256"] for image in deleted} & self.kept.keys()):
            room = sum(key.startswith(f"{entry}/") and (key, sha256) not in present for key in self.kept[sha256])
            moved = [
                image["row"]
                for image in deleted
                if image["sha256"] == sha256
                and image["key"] not in self.by_key
                and self.is_row(image["key"], image["uri"])
            ]
            stay.update(moved[:room])
        return frozenset(stay)


def rule_of(deletions: pa.Table, is_row: IsRow) -> Rule:
    """Return the rule that a table of deletions states."""
    rows = named(deletions).to_pylist()
    versions: dict[str, int] = {}
    for row in rows:
        if row["sha256"] is not None:
            versions[row["sha256"]] = min(versions.get(row["sha256"], row["version"]), row["version"])
    by_key = frozenset(row["key"] for row in rows if row["scope"] != BY_CONTENT)
    return Rule(by_key=by_key, kept=_kept(rows), versions=versions, is_row=is_row)


def _kept(rows: Iterable[dict[str, Any]]) -> dict[str, frozenset[str]]:
    """Return the keys under which each deleted content stays, by its last deletion."""
    kept: dict[str, frozenset[str]] = {}
    for row in sorted(rows, key=lambda row: row["version"]):
        if row["sha256"] is not None:
            kept[row["sha256"]] = frozenset(row["kept"] or ())
    return kept


def named(deletions: pa.Table) -> pa.Table:
    """Return the rows that a user made."""
    return deletions.filter(pc.not_equal(pc.fill_null(deletions["scope"], BY_KEY), COPY))


def copies_of(deletions: pa.Table) -> pa.Table:
    """Return the rows that indexing made."""
    return deletions.filter(pc.equal(pc.fill_null(deletions["scope"], BY_KEY), COPY))


def with_deletions(deletions: pa.Table, rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Return the deletions with more of them, by key. A key that is deleted already keeps its row and its version."""
    more = {_same(row): row for row in rows}
    old = [row for row in deletions.to_pylist() if _same(row) not in more or row["scope"] in (None, BY_KEY)]
    known = {_same(row) for row in old}
    return table_of([*old, *(row for same, row in more.items() if same not in known)])


def _same(row: dict[str, Any]) -> tuple[str, str]:
    """Return what a row is about: a key, or an image under a key that is a row number."""
    by_content = row.get("scope") == BY_CONTENT
    return row["key"], str(row["sha256"]) if by_content else ""


def with_copies(deletions: pa.Table, copies: Iterable[dict[str, Any]]) -> pa.Table:
    """Return the rows that a user made, and these copies; the first one of a key counts."""
    here: dict[str, dict[str, Any]] = {}
    for row in copies:
        here.setdefault(row["key"], row)
    if not here:
        return named(deletions)
    return table_of([*named(deletions).to_pylist(), *here.values()])


def without_deletions(deletions: pa.Table, keys: Iterable[str]) -> tuple[pa.Table, frozenset[str]]:
    """Restore keys: return the deletions that remain, and the entries that have to be looked at again.

    A content that is deleted under other keys as well stays deleted there, and from now on stays under these.
    """
    wanted = frozenset(keys)
    rows = deletions.to_pylist()
    gone = [row for row in rows if row["key"] in wanted]
    kept = _kept(row for row in rows if row["scope"] != COPY)
    back: dict[str, set[str]] = {}
    for row in gone:
        if row["sha256"] is not None:
            back.setdefault(row["sha256"], set(kept[row["sha256"]])).add(row["key"])
    stay = [row for row in rows if row["key"] not in wanted]
    for row in stay:
        if row["scope"] != COPY and row["sha256"] in back:
            row["kept"] = sorted(back[row["sha256"]])
    still = {row["sha256"] for row in stay if row["scope"] != COPY}
    freed = [row["scope"] == COPY and row["sha256"] not in still for row in stay]
    result = table_of(row for row, free in zip(stay, freed, strict=True) if not free)
    entries = {row["entry"] for row, free in zip(stay, freed, strict=True) if free}
    return result, frozenset(entries | {row["entry"] for row in gone})


def table_of(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Return rows as a table, sorted by key, and by content under a key that is a row number."""
    ordered = sorted(rows, key=lambda row: (row["key"].encode(), row["sha256"] or ""))
    return pa.Table.from_pylist(ordered, schema=manifests.DELETIONS)
