"""Entries that only look changed: which they are, and what a plan is once it is known that their bytes are equal."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.types import Entry
from pipeline.publish.listing import SCHEMA, NewListing
from pipeline.publish.packing import Packing
from pipeline.publish.plan import Plan, entries_of, make_plan
from pipeline.publish.plan import planned as plan_of
from pipeline.publish.rebase import rebase
from pipeline.publish.renew import renewed, touched

NOTHING = NewListing().finish()
NO_SHARDS = pa.array([], pa.string())
paths = st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.sampled_from(["1", "2", ""]), st.integers(1, 2)))


def listed(entries: dict[str, tuple[str, int]]) -> list[Entry]:
    return [Entry(path=path, size=size, etag=etag) for path, (etag, size) in sorted(entries.items())]


def planned(listing: list[Entry], known: NewListing = NOTHING) -> Plan:
    return make_plan(listing, known, source="/src", packing=Packing(files=2))


def after(plan: Plan) -> NewListing:
    rows = NewListing()
    for batch in plan.batches():
        rows.append(batch.filter(pc.not_equal(batch["status"], "drop")).select(SCHEMA.names))
    return rows.finish()


def shards(listing: NewListing) -> dict[str, tuple[Entry, str]]:
    return {entry.path: (entry, shard) for batch in listing.batches() for entry, shard in entries_of(batch)}


def names(plan: Plan) -> list[str]:
    return [path for batch in touched(plan) for path in batch["path"].to_pylist()]


def test_an_entry_with_another_etag_and_the_same_size_may_be_as_it_was() -> None:
    before = after(planned(listed({"a": ("1", 1), "b": ("1", 1), "c": ("1", 1), "d": ("", 1), "e": ("1", 1)})))
    now = {"a": ("2", 1), "b": ("2", 2), "c": ("1", 1), "d": ("2", 1), "f": ("1", 1)}
    plan = planned(listed(now), before)
    assert names(plan) == ["a"], "b has another size, c is known, d was to be looked at again, e is gone, f is new"


def test_what_is_tried_again_is_not_compared_and_keeps_saying_which_try_it_is() -> None:
    before = after(planned(listed({"a": ("1", 1), "b": ("1", 1), "c": ("1", 1)})))
    now = listed({"a": ("2", 1), "b": ("2", 1), "c": ("2", 1)})

    def tried(reason: str) -> Plan:
        return make_plan(now, before, source="/src", packing=Packing(files=2), again=Chosen("a", reason))

    first, second = tried("once"), tried("twice")
    assert names(first) == ["b", "c"]
    nothing = np.zeros(2, bool)
    assert renewed(first, nothing).rows == first.rows, "where no bytes are equal, shards keep their ids"
    equal = np.ones(2, bool)
    assert renewed(first, equal).count("renew") == 2
    ids = [shard.id for plan in (first, second) for shard in renewed(plan, equal).shards()]
    assert len(set(ids)) == 2


class Chosen:
    """Extracts one path again."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason

    def chosen(self, known: pa.Table) -> pa.Array:
        return pc.fill_null(pc.equal(known["path"], self.path), fill_value=False)


@settings(deadline=None)
@given(paths, paths, st.randoms(use_true_random=False))
def test_what_is_equal_stays_in_its_shard_with_its_new_etag_and_everything_else_is_as_without(  # type: ignore[no-untyped-def]
    old: dict[str, tuple[str, int]], new: dict[str, tuple[str, int]], dice
) -> None:
    before = after(planned(listed(old)))
    plan = planned(listed(new), before)
    equal = np.array([dice.random() < 0.5 for _ in names(plan)], bool)
    same = {name for name, is_equal in zip(names(plan), equal, strict=True) if is_equal}
    made = renewed(plan, equal)
    assert (made.count("renew"), made.count("keep")) == (len(same), plan.count("keep"))
    assert made.count("add") == plan.count("add") - len(same) == sum(len(s.entries) for s in made.shards())
    assert made.count("drop") == plan.count("drop") - len(same)
    assert made.changes == plan.changes
    then, now = shards(before), shards(after(made))
    assert [entry for entry, _ in now.values()] == listed(new)
    assert all(now[name][1] == then[name][1] for name in same)
    assert not planned(listed(new), after(made)).changes, "it is not compared a second time"


def test_over_a_newer_head_what_is_still_there_is_renewed_and_what_others_changed_is_left_alone() -> None:
    old = dict.fromkeys("abc", ("1", 1))
    before = after(planned(listed(old)))
    plan = renewed(planned(listed(dict.fromkeys("abc", ("2", 1))), before), np.ones(3, bool))
    theirs = after(planned(listed({"a": ("1", 1), "b": ("3", 1)}), before))
    moved = rebase(plan, theirs, NO_SHARDS).plan
    assert {row["path"]: (row["status"], row["etag"]) for row in moved.rows.to_pylist()} == {
        "a": ("renew", "2"),
        "b": ("keep", "3"),
    }
    assert (moved.count("renew"), moved.count("keep")) == (1, 1)


def test_in_every_batch_of_a_plan_the_entry_as_it_is_now_may_be_as_it_was_and_flags_go_by_order() -> None:
    before = after(planned(listed({"a": ("1", 1), "b": ("1", 1), "d": ("1", 1), "e": ("1", 1), "f": ("1", 1)})))
    then = shards(before)
    whole = planned(listed(dict.fromkeys("abdef", ("2", 1)) | {"c": ("1", 1)}), before)
    # Three batches of one, two, and two changed entries.
    cuts = [whole.rows.slice(0, 2), whole.rows.slice(2, 5), whole.rows.slice(7)]
    assert [piece["path"].to_pylist() for piece in cuts] == [["a"] * 2, list("bbcdd"), list("eeff")]
    unpacked = [
        piece.set_column(3, "shard", pc.if_else(pc.equal(piece["status"], "add"), "", piece["shard"])) for piece in cuts
    ]
    plan = plan_of(unpacked, source="/src", packing=Packing(files=2))
    found = [(row["path"], row["etag"], row["shard"]) for batch in touched(plan) for row in batch.to_pylist()]
    assert found == [(name, "2", then[name][1]) for name in "abdef"], "listed as it is now, and where it has been"
    made = renewed(plan, np.array([True, False, True, False, True]))
    rows = [(row["path"], row["status"]) for row in made.rows.to_pylist() if row["path"] != "c"]
    both = ("drop", "add")
    assert rows == [
        ("a", "renew"),
        *(("b", status) for status in both),
        ("d", "renew"),
        *(("e", status) for status in both),
        ("f", "renew"),
    ]
    assert {row["shard"] for row in made.rows.to_pylist() if row["status"] == "renew"} <= {x for _, x in then.values()}
