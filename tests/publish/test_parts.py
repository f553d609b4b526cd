"""A plan once shards have been extracted without some of their entries."""

from __future__ import annotations

import pyarrow.compute as pc

from pipeline.core.types import Entry
from pipeline.publish.listing import SCHEMA, NewListing
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
    assert (parts.packs, parts.new_shards, parts.counts) == (None, 0, plan.counts), "its rows name their shards"
    assert (parts.source, parts.packing, parts.bytes_to_read) == (plan.source, plan.packing, plan.bytes_to_read)


def test_what_is_published_stays_in_its_shard_whatever_that_is_called() -> None:
    listing = [Entry(path=path, size=1, etag="1") for path in "abcdef"]
    first = make_plan(listing, NewListing().finish(), source="/src", packing=Packing(files=3))
    known = NewListing()
    for batch in first.batches():
        known.append(batch.filter(pc.equal(batch["status"], "add")).select(SCHEMA.names))
    now = [Entry(path=path, size=1, etag="2" if path == "b" else "1") for path in "abceg"]
    plan = make_plan(now, known.finish(), source="/src", packing=Packing(files=3))
    (new,) = plan.shards()
    old = [shard.id for shard in first.shards()]
    parts = with_parts(plan, {new.id: Part(shard="part", unread=("g",)), old[0]: Part(shard="none", unread=())})
    assert [(row["path"], row["status"], row["shard"]) for row in parts.rows.to_pylist()] == [
        ("a", "keep", old[0]),
        ("b", "drop", old[0]),
        ("b", "add", "part"),
        ("c", "keep", old[0]),
        ("d", "drop", old[1]),
        ("e", "keep", old[1]),
        ("f", "drop", old[1]),
        ("g", "add", new.id),
    ]
