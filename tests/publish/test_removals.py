"""What of a published listing is not listed any more: counted in entries and shards, streamed at any cut."""

from __future__ import annotations

import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.types import MISSING, Entry
from pipeline.publish.listing import SCHEMA, NewListing
from pipeline.publish.packing import Packing
from pipeline.publish.plan import Plan, make_plan
from pipeline.publish.removals import removals

NOTHING = NewListing().finish()
files = st.dictionaries(st.text("ab/é", min_size=1, max_size=3), st.sampled_from(["1", "2", MISSING]), max_size=12)


def planned(listed: dict[str, str], known: NewListing = NOTHING) -> Plan:
    entries = [Entry(path=path, size=1, etag=listed[path]) for path in sorted(listed, key=str.encode)]
    return make_plan(entries, known, source="/src", packing=Packing(files=2))


def published(plan: Plan) -> NewListing:
    rows = NewListing()
    for batch in plan.batches():
        rows.append(batch.filter(pc.not_equal(batch["status"], "drop")).select(SCHEMA.names))
    return rows.finish()


def shards(listing: NewListing) -> dict[str, str]:
    return {row["path"]: row["shard"] for batch in listing.batches() for row in batch.to_pylist()}


@given(files, files, st.sets(st.sampled_from(["a", "b", "ab"])))
def test_removals_are_published_entries_that_are_not_listed_and_were_not_meant_to_go(
    before: dict[str, str], now: dict[str, str], meant: set[str]
) -> None:
    known = published(planned(before))
    there = [{path for path, etag in side.items() if etag != MISSING} for side in (before, now)]
    gone = there[0] - there[1]
    found = removals(planned(now, known), known)
    assert (found.known, found.present, found.entries) == (len(there[0]), len(there[1]), len(gone))
    assert sorted(found.shards.to_pylist()) == sorted({shards(known)[path] for path in gone})
    counted = removals(planned(now, known), known, lambda path: path in meant)
    assert (counted.known, counted.present, counted.entries) == (len(there[0]), len(there[1]), len(gone - meant))
    assert sorted(counted.shards.to_pylist()) == sorted({shards(known)[path] for path in gone - meant})


def test_what_a_plan_was_compared_with_does_not_matter() -> None:
    known = published(planned(dict.fromkeys("abc", "1")))
    anew = removals(planned({"a": "1", "d": "1"}), known)
    assert (anew.known, anew.present, anew.entries) == (3, 2, 2)
