"""Removals: what of a published listing a plan no longer sees. Pure; what is too much is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.types import MISSING
from pipeline.publish.listing import SCHEMA as LISTING
from pipeline.publish.listing import Listing, aligned
from pipeline.publish.plan import SCHEMA, Plan


@dataclass(frozen=True, kw_only=True)
class Removals:
    """known: entries that were published. present: entries that are listed now. entries: published ones that are not
    listed any more, and shards: those that they are in. A file that a list names and that is not there is no entry.
    """

    known: int
    present: int
    entries: int
    shards: pa.Array


def removals(plan: Plan, known: Listing, meant: Callable[[str], bool] | None = None) -> Removals:
    """Compare what a plan lists with a published listing, whatever the plan itself was compared with.

    meant: tells of the path of a removed entry whether it was removed on purpose; those do not count.
    """
    counts = dict.fromkeys(("known", "present", "entries"), 0)
    shards: list[pa.Array] = []
    for new, old in aligned(_listed(plan), _there(known.batches()), (SCHEMA, LISTING)):
        gone = old.filter(pc.invert(pc.is_in(old["path"], value_set=new["path"].combine_chunks())))
        if meant is not None and gone.num_rows:
            gone = gone.filter(pa.array([not meant(path) for path in gone["path"].to_pylist()]))
        counts["known"] += old.num_rows
        counts["present"] += new.num_rows
        counts["entries"] += gone.num_rows
        shards.append(gone["shard"].unique())
    empty = pa.array([], pa.string())
    return Removals(**counts, shards=pa.concat_arrays([empty, *shards]).unique())


def _listed(plan: Plan) -> Iterator[pa.RecordBatch]:
    return _there(batch.filter(pc.not_equal(batch["status"], "drop")) for batch in plan.batches())


def _there(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = batch.filter(pc.not_equal(batch["etag"], MISSING))
        if rows.num_rows:
            yield rows
