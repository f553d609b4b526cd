"""Rebase against a model that is a dict: what both commits mean together, or the path at which they contradict."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.types import Entry
from pipeline.publish.listing import SCHEMA, NewListing
from pipeline.publish.packing import Packing
from pipeline.publish.plan import Plan, entries_of, make_plan
from pipeline.publish.rebase import ContradictionError, rebase
from pipeline.publish.renew import renewed

Files = dict[str, tuple[str, int]]
"""Path -> (etag, size)."""
NOTHING = NewListing().finish()
NO_SHARDS = pa.array([], pa.string())
files = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.sampled_from(["1", "2"]), st.integers(1, 2)))


def planned(now: Files, known: NewListing = NOTHING) -> Plan:
    listed = [Entry(path=path, size=size, etag=etag) for path, (etag, size) in sorted(now.items())]
    return make_plan(listed, known, source="/src", packing=Packing(files=2))


def after(plan: Plan) -> NewListing:
    rows = NewListing()
    for batch in plan.batches():
        rows.append(batch.filter(pc.not_equal(batch["status"], "drop")).select(SCHEMA.names))
    return rows.finish()


def held(listing: NewListing) -> dict[str, tuple[tuple[str, int], str]]:
    """Path -> (what it is, the shard it is in)."""
    pairs = [pair for batch in listing.batches() for pair in entries_of(batch)]
    return {entry.path: ((entry.etag, entry.size), shard) for entry, shard in pairs}


def together(base: Files, mine: Files, theirs: Files) -> tuple[Files, list[str], list[str]]:
    """What both mean; the paths that both indexed alike; those at which they contradict each other."""
    result, both, against = dict(theirs), [], []
    for path in sorted({*base, *mine}):
        old, new, there = (kind.get(path) for kind in (base, mine, theirs))
        if new == old:
            continue
        if there == old:
            result.pop(path, None)
            if new is not None:
                result[path] = new
        elif new == there:
            both += [path] if new is not None else []
        else:
            against.append(path)
    return result, both, against


@settings(deadline=None, max_examples=150)
@given(files, files, files, st.sets(st.integers(0, 3), max_size=2))
@example({"a": ("1", 1)}, {"a": ("2", 1)}, {"a": ("1", 2)}, set())
@example({"a": ("1", 1)}, {}, {"a": ("2", 1)}, set())
@example({"a": ("1", 1)}, {"a": ("2", 1)}, {}, set())
@example({}, {"a": ("1", 1)}, {"a": ("1", 1), "b": ("1", 1), "c": ("1", 1)}, set())
def test_what_both_mean_is_carried_over_and_what_contradicts_is_named(
    base: Files, mine: Files, theirs: Files, numbers: set[int]
) -> None:
    before = after(planned(base))
    plan, head = planned(mine, before), after(planned(theirs, before))
    shards = list(plan.shards())
    failed = [shard.id for number, shard in enumerate(shards) if number in numbers]
    lost = {entry.path for shard in shards if shard.id in failed for entry in shard.entries}
    # What was set aside stays as it was.
    meant = {path: entry for path, entry in mine.items() if path not in lost}
    meant |= {path: base[path] for path in lost & set(base)}
    expected, both, against = together(base, meant, theirs)
    if against:
        with pytest.raises(ContradictionError) as caught:
            rebase(plan, head, pa.array(failed, pa.string()))
        assert str(caught.value) == against[0]
        return
    moved = rebase(plan, head, pa.array(failed, pa.string()))
    found, there = held(after(moved.plan)), held(head)
    assert {path: entry for path, (entry, _) in found.items()} == expected
    new = {entry.path: shard.id for shard in shards for entry in shard.entries}
    for path, (entry, shard) in found.items():
        ours = entry != there.get(path, (None,))[0]
        assert shard == (new[path] if ours else there[path][1]), "it is in the shard of whoever indexed it"
    strays = [path for path in both if new[path] != there[path][1]]
    assert sorted((path, shard) for shard, paths in moved.strays.items() for path in paths) == sorted(
        (path, new[path]) for path in strays
    )
    statuses = Counter(moved.plan.rows["status"].to_pylist())
    assert {status: moved.plan.count(status) for status in statuses} == statuses
    assert sum(moved.plan.counts.values()) == moved.plan.rows.num_rows
    assert moved.plan.reason.endswith(", over a newer snapshot")
    paths = moved.plan.rows["path"].to_pylist()
    assert paths == sorted(paths)


def test_entries_that_moved_to_another_shard_are_not_those_that_a_plan_drops() -> None:
    before = after(planned({"a": ("1", 1), "b": ("1", 1)}))
    plan = planned({"b": ("1", 1)}, before)
    # Others dropped it and indexed it again as it was: it is in a shard that this plan knows nothing of.
    without = after(planned({"b": ("1", 1)}, before))
    theirs = after(planned({"a": ("1", 1), "b": ("1", 1)}, without))
    assert held(theirs)["a"][1] != held(before)["a"][1]
    with pytest.raises(ContradictionError, match="a"):
        rebase(plan, theirs, NO_SHARDS)


def test_an_entry_that_is_renewed_leaves_all_others_as_they_are() -> None:
    before = after(planned({"a": ("1", 1), "c": ("1", 1)}))
    plan = renewed(planned({"a": ("2", 1), "c": ("2", 1)}, before), np.ones(2, bool))
    theirs = after(planned({"a": ("1", 1), "b": ("1", 1), "c": ("1", 1), "d": ("1", 1)}, before))
    moved = rebase(plan, theirs, NO_SHARDS).plan
    assert {row["path"]: (row["status"], row["etag"]) for row in moved.rows.to_pylist()} == {
        "a": ("renew", "2"),
        "b": ("keep", "1"),
        "c": ("renew", "2"),
        "d": ("keep", "1"),
    }
