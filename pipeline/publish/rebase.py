"""Rebase: what a plan still has to do once somebody else has committed in between. Pure; conflicts name the path.

Adds and drops are carried over where the other commit left things as this plan saw them, and are left out where it did
the same. What both changed in different ways is a contradiction that only a new plan can resolve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import SightlineError
from pipeline.publish.listing import SCHEMA as LISTING
from pipeline.publish.listing import Listing, Spool, aligned
from pipeline.publish.plan import SCHEMA, STATUSES, Plan, in_order


class ContradictionError(SightlineError):
    """Two commits changed the same entry in different ways; str() names it."""


@dataclass(frozen=True, kw_only=True)
class Rebased:
    """A plan over another head. strays: entries of finished shards, by shard, that the other commit indexed as well."""

    plan: Plan
    strays: dict[str, list[str]]


def rebase(plan: Plan, theirs: Listing, failed: pa.Array) -> Rebased:
    """Carry a plan over to another head's listing, without the shards that were set aside (ids in `failed`)."""
    spool = Spool(SCHEMA)
    counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
    strays: dict[str, list[str]] = {}
    for mine, there in aligned(_changes(plan, failed), theirs.batches(), (SCHEMA, LISTING)):
        rows = _carried(mine, there, strays)
        for value in pc.value_counts(rows["status"].combine_chunks()).to_pylist():
            counts[value["values"]] += value["counts"]
        spool.append(rows)
    moved = replace(
        plan, spool=spool.finish(), packs=None, counts=counts, reason=f"{plan.reason}, over a newer snapshot"
    )
    return Rebased(plan=moved, strays=strays)


def _changes(plan: Plan, failed: pa.Array) -> Iterator[pa.RecordBatch]:
    """Yield what a plan changes; entries whose new shard was set aside stay as they were."""
    for batch in plan.batches():
        rows = batch.filter(pc.not_equal(batch["status"], "keep"))
        lost = pc.and_(pc.equal(rows["status"], "add"), pc.is_in(rows["shard"], failed))
        if pc.any(lost).as_py():
            rows = rows.filter(pc.invert(pc.is_in(rows["path"], rows.filter(lost)["path"])))
        if rows.num_rows:
            yield rows


def _carried(mine: pa.Table, theirs: pa.Table, strays: dict[str, list[str]]) -> pa.Table:
    adds = mine.filter(pc.equal(mine["status"], "add"))
    drops = mine.filter(pc.equal(mine["status"], "drop"))
    theirs_at = {path: row for row, path in enumerate(theirs["path"].to_pylist())} if mine.num_rows else {}
    dropped = {row["path"]: row for row in drops.to_pylist()}
    added = {row["path"]: row for row in adds.to_pylist()}
    go: set[str] = set()
    come: set[str] = set()
    for path in sorted({*dropped, *added}):
        drop, add = dropped.get(path), added.get(path)
        there = theirs.slice(theirs_at[path], 1).to_pylist()[0] if path in theirs_at else None
        if there is not None and drop is not None and _same(there, drop) and there["shard"] == drop["shard"]:
            go.add(path)
            if add is not None:
                come.add(path)
        elif add is not None and there is not None and _same(there, add):
            if there["shard"] != add["shard"]:
                strays.setdefault(add["shard"], []).append(path)
        elif add is not None and drop is None and there is None:
            come.add(path)
        elif not (add is None and there is None):
            raise ContradictionError(path)
    gone = pc.is_in(theirs["path"], pa.array(sorted(go), pa.string()))
    kept = _renewed(theirs.append_column("status", pc.if_else(gone, "drop", "keep")), mine)
    fresh = adds.filter(pc.is_in(adds["path"], pa.array(sorted(come), pa.string())))
    return in_order(pa.concat_tables([kept.cast(SCHEMA), fresh.cast(SCHEMA)]))


def _renewed(theirs: pa.Table, mine: pa.Table) -> pa.Table:
    """Carry "renew" rows over to entries that are where they were; what the other commit changed is left alone."""
    rows = mine.filter(pc.equal(mine["status"], "renew"))
    if not rows.num_rows:
        return theirs
    at = pc.index_in(theirs["path"], value_set=rows["path"].combine_chunks())
    ours = rows.take(at)
    same = pc.and_(pc.equal(theirs["shard"], ours["shard"]), pc.equal(theirs["size"], ours["size"]))
    same = pc.fill_null(pc.and_(same, pc.equal(theirs["status"], "keep")), fill_value=False)
    for name in ("etag", "changed", "status"):
        column = pc.if_else(same, ours[name], theirs[name])
        theirs = theirs.set_column(theirs.schema.get_field_index(name), name, column)
    return theirs


def _same(one: dict[str, object], other: dict[str, object]) -> bool:
    return one["size"] == other["size"] and one["etag"] == other["etag"]
