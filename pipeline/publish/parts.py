"""Parts: a plan once some of its shards have been extracted without the entries that could not be read.

Those that were read become a shard of their own; the others stay in the planned shard, which counts as failed, so that
whoever goes through the plan leaves them as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.publish.listing import Spool
from pipeline.publish.plan import SCHEMA, Plan


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was made of a planned shard: the shard of the entries that were read, and the paths of the others."""

    shard: str
    unread: tuple[str, ...]


def with_parts(plan: Plan, parts: Mapping[str, Part]) -> Plan:
    """Return a plan whose new entries name the parts that they went into; parts: by planned shard."""
    if not parts:
        return plan
    spool = Spool(SCHEMA)
    for batch in _renamed(plan, parts):
        spool.append(batch)
    return replace(plan, spool=spool.finish(), packs=None)


def _renamed(plan: Plan, parts: Mapping[str, Part]) -> Iterator[pa.RecordBatch]:
    planned = pa.array(list(parts), pa.string())
    names = pa.array([part.shard for part in parts.values()], pa.string())
    unread = pa.array([path for part in parts.values() for path in part.unread], pa.string())
    for batch in plan.batches():
        at = pc.index_in(batch["shard"], value_set=planned)
        read = pc.and_(pc.equal(batch["status"], "add"), pc.invert(pc.is_in(batch["path"], value_set=unread)))
        shards = pc.if_else(pc.and_(read, pc.is_valid(at)), names.take(at), batch["shard"])
        yield batch.set_column(SCHEMA.get_field_index("shard"), SCHEMA.field("shard"), shards)
