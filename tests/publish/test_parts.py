"""A plan once shards have been extracted without some of their entries."""

from __future__ import annotations

from pipeline.core.types import Entry
from pipeline.publish.listing import NewListing
from pipeline.publish.packing import Packing
from pipeline.publish.parts import Part, with_parts
from pipeline.publish.plan import make_plan


def test_entries_that_were_read_go_to_the_part_and_the_others_stay_in_the_planned_shard() -> None:
    listing = [Entry(path=path, size=1, etag="1") for path in "abcdef"]
    plan = make_plan(listing, NewListing().finish(), source="/src", packing=Packing(files=3))
    first, second = plan.shards()
    parts = with_parts(plan, {first.id: Part(shard="part", unread=("b",))})
    assert parts.rows["shard"].to_pylist() == ["part", first.id, "part", second.id, second.id, second.id]
    assert parts.rows["path"].to_pylist() == list("abcdef")
    assert with_parts(plan, {}) is plan
