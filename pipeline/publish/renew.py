"""Renew: entries whose etag changed and whose bytes may not have. From plan to plan; what is equal, others find out.

Copying, restoring and checking out files gives them new times; changing their mode, owner or links gives them a new
ctime (see Entry.changed). Such an entry is a "drop" row and an "add" row of one size; where its bytes are known to be
equal both become one "renew" row, and its image stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.publish.plan import IN_PLACE, SCHEMA, Plan, planned

Flags = npt.NDArray[np.bool_]


def touched(plan: Plan) -> Iterator[pa.RecordBatch]:
    """Yield the entries (path, size, etag: as listed now, shard: where they are) that may be as they were, in order.

    An entry with no etag stays out: it is to be looked at again (see reopened in stages/edits.py).
    """
    for batch in plan.spool.batches():
        old = np.flatnonzero(_pairs(batch))
        if len(old):
            shard = batch["shard"].take(pa.array(old))
            rows = batch.take(pa.array(old + 1))
            yield rows.set_column(SCHEMA.get_field_index("shard"), SCHEMA.field("shard"), shard)


def renewed(plan: Plan, equal: Flags) -> Plan:
    """Return the plan in which those of the touched entries (n,), in their order, that are equal stay as they are."""
    return planned(_rows(plan, equal), source=plan.source, packing=plan.packing)


def _rows(plan: Plan, equal: Flags) -> Iterator[pa.Table]:
    start = 0
    for batch in plan.spool.batches():
        old = np.flatnonzero(_pairs(batch))
        old, start = old[equal[start : start + len(old)]], start + len(old)
        shards, statuses = batch["shard"].to_numpy(zero_copy_only=False), batch["status"].to_numpy(zero_copy_only=False)
        shards[old + 1], statuses[old + 1] = shards[old], "renew"
        rows = pa.Table.from_batches([batch], SCHEMA)
        for name, values in (("shard", shards), ("status", statuses)):
            rows = rows.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), pa.array(values, pa.string()))
        stays = np.ones(batch.num_rows, bool)
        stays[old] = False
        yield rows.filter(pa.array(stays))


def _pairs(batch: pa.RecordBatch) -> Flags:
    """Return which rows (n,) drop an entry that the next row adds again with the same size.

    batch: of a plan's spool, whose "add" rows have no shard yet, but why they are extracted again.
    """
    found = np.zeros(batch.num_rows, bool)
    if batch.num_rows > 1:
        before, after = batch.slice(0, batch.num_rows - 1), batch.slice(1)
        alike = pc.and_(pc.equal(before["path"], after["path"]), pc.equal(before["size"], after["size"]))
        known = pc.and_(pc.equal(before["status"], "drop"), pc.not_equal(before["etag"], ""))
        # What is to be extracted again, whatever its bytes, says so.
        known = pc.and_(known, pc.or_(pc.equal(after["shard"], ""), pc.starts_with(after["shard"], IN_PLACE)))
        found[:-1] = pc.and_(alike, known).to_numpy(zero_copy_only=False)
    return found
