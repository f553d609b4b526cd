"""Removed: which images of descriptor files a change takes out of the collection. From lists to tombstones.

Three reasons: their entry left a file in which others stay, another run indexed them meanwhile, or they are deleted
(the rule is in deletions.py). Whole files that go are none of this module's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.publish import manifests
from pipeline.publish.lists import Lists
from pipeline.stages.deletions import IsRow, copies_of, named, rule_of, with_copies
from pipeline.stages.find_rows import FindItem, FindKeys


@dataclass(frozen=True, kw_only=True)
class Moves:
    """What a change does to entries, by shard.

    came: descriptor table of the files that came. containers: the path of each that is a container. deleted: paths
    that came and that a deletion names. left: paths that left a file that stays. strays: see Change in merge.py.
    unchanged: entries with copies of deleted images that stay as they are.
    """

    came: pa.Table
    containers: Mapping[str, str]
    deleted: Mapping[str, list[str]]
    left: Mapping[str, list[str]]
    strays: Mapping[str, list[str]]
    unchanged: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Rows that are no longer part of the collection, and the deletions with the copies that are there now.

    by_content: how many images came that are deleted because of their content alone.
    """

    rows: manifests.Rows
    deletions: pa.Table
    by_content: int


def removed(head: Lists, moves: Moves, find: FindKeys, is_row: IsRow) -> Removed:
    """Look into the files concerned; where a content is deleted, those are all that came."""
    rule = rule_of(head.deletions, is_row)
    came = frozenset(moves.came["shard_id"].to_pylist())
    rows: manifests.Rows = {}
    copies: list[dict[str, Any]] = []
    for item, found in find(_items(head, moves, by_content=bool(rule.kept)), rule.digests):
        shard = item.file.shard_id
        elsewhere = {*moves.left.get(shard, ()), *moves.strays.get(shard, ())}
        dead = found.named(elsewhere).rows
        if shard in came:
            verdict = rule.judge(found.but(elsewhere).table, moves.containers.get(shard, ""))
            dead = np.union1d(dead, verdict.rows)
            copies += verdict.copies
        if len(dead):
            rows = manifests.united(rows, {item.file.id: dead})
    before = [row for row in copies_of(head.deletions).to_pylist() if row["entry"] in moves.unchanged]
    return Removed(
        rows=rows,
        deletions=with_copies(head.deletions, [*before, *copies]),
        by_content=len({row["key"] for row in copies}),
    )


def _items(head: Lists, moves: Moves, *, by_content: bool) -> Iterator[FindItem]:
    still = head.descriptors.filter(_of(head.descriptors, moves.left))
    for file in manifests.descriptor_files(still):
        yield FindItem(file=file, keys=tuple(moves.left[file.shard_id]))
    came = moves.came if by_content else moves.came.filter(_of(moves.came, {**moves.deleted, **moves.strays}))
    deletions = named(head.deletions)
    for file in manifests.descriptor_files(came):
        entries = pa.array(moves.deleted.get(file.shard_id, []), pa.string())
        keys = deletions.filter(pc.is_in(deletions["entry"], entries))["key"].to_pylist()
        yield FindItem(file=file, keys=(*keys, *moves.strays.get(file.shard_id, ())))


def _of(files: pa.Table, shards: Mapping[str, Any]) -> pa.ChunkedArray | pa.Array:
    return manifests.among(files["shard_id"], pa.array(list(shards), pa.string()))
