from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.core.types import Entry
from pipeline.publish.listing import BATCH, SCHEMA, NewListing
from pipeline.publish.packing import Packing
from pipeline.publish.plan import Plan, entries_of, make_plan

TWO = Packing(files=2)


def entry(path: str, etag: str = "1", size: int = 10, changed: int | None = None) -> Entry:
    return Entry(path=path, size=size, etag=etag, changed=changed)


NOTHING = NewListing().finish()


def planned(listing: list[Entry], known: NewListing = NOTHING, packing: Packing | None = TWO) -> Plan:
    return make_plan(listing, known, source="/src", packing=packing)


def after(plan: Plan) -> NewListing:
    """What is known once everything in the plan has been carried out."""
    rows = NewListing()
    for batch in plan.batches():
        rows.append(batch.filter(pc.not_equal(batch["status"], "drop")).select(SCHEMA.names))
    return rows.finish()


def entries(listing: NewListing) -> list[tuple[Entry, str]]:
    return [pair for batch in listing.batches() for pair in entries_of(batch)]


def test_everything_is_new_at_first_and_packed_in_order() -> None:
    plan = planned([entry(name) for name in "abcde"])
    assert [[e.path for e in shard.entries] for shard in plan.shards()] == [["a", "b"], ["c", "d"], ["e"]]
    assert (plan.count("add"), plan.bytes_to_read) == (5, 50)


def test_containers_are_shards_by_themselves() -> None:
    plan = planned([entry("a.tar"), entry("b.tar")], NOTHING, packing=None)
    assert [shard.uri for shard in plan.shards()] == ["/src/a.tar", "/src/b.tar"]


def test_nothing_new_is_said_in_words() -> None:
    listing = [entry(name) for name in "abc"]
    plan = planned(listing, after(planned(listing)))
    assert (plan.count("add"), plan.count("drop"), plan.count("keep")) == (0, 0, 3)
    assert plan.reason == "nothing new: all 3 are as they were"
    assert list(plan.shards()) == []


def test_a_file_added_in_the_middle_shifts_no_shard() -> None:
    first = planned([entry(name) for name in ("a", "c", "e", "g")])
    second = planned([entry(name) for name in ("a", "b", "c", "e", "g")], after(first))
    assert [[e.path for e in shard.entries] for shard in second.shards()] == [["b"]]
    assert {shard for _, shard in entries(after(first))} < {shard for _, shard in entries(after(second))}


def test_a_changed_file_is_dropped_and_added_and_a_missing_one_dropped() -> None:
    known = after(planned([entry("a"), entry("b"), entry("c")]))
    plan = planned([entry("a"), entry("b", "2")], known)
    rows = list(zip(plan.rows["path"].to_pylist(), plan.rows["status"].to_pylist(), strict=True))
    assert rows == [("a", "keep"), ("b", "drop"), ("b", "add"), ("c", "drop")]


def test_shard_ids_depend_on_what_is_packed_and_on_nothing_else() -> None:
    one = [shard.id for shard in planned([entry("a"), entry("b")]).shards()]
    assert one == [shard.id for shard in planned([entry("a"), entry("b")]).shards()]
    assert one != [shard.id for shard in planned([entry("a"), entry("b", "2")]).shards()]
    assert one != [s.id for s in make_plan([entry("a"), entry("b")], NOTHING, source="/other", packing=TWO).shards()]


def test_shards_are_bounded_in_bytes_too() -> None:
    plan = planned([entry(n, size=60) for n in "abc"], NOTHING, Packing(files=10, bytes=100))
    assert len(list(plan.shards())) == 3


names = st.dictionaries(st.text(alphabet="ab/é.", min_size=1, max_size=4), st.integers(0, 2), max_size=12)


def sorted_entries(files: dict[str, int]) -> list[Entry]:
    return [entry(path, str(etag)) for path, etag in sorted(files.items(), key=lambda item: item[0].encode())]


@given(names, names, st.integers(1, 4))
def test_a_plan_turns_what_was_known_into_what_is_listed(
    before: dict[str, int], now: dict[str, int], files: int
) -> None:
    packing = Packing(files=files)
    known = after(planned(sorted_entries(before), NOTHING, packing))
    plan = planned(sorted_entries(now), known, packing)
    assert {(e.path, e.etag) for e, _ in entries(after(plan))} == {(p, str(e)) for p, e in now.items()}
    added = [e for shard in plan.shards() for e in shard.entries]
    assert {(e.path, e.etag) for e in added} == {(p, str(e)) for p, e in now.items() if before.get(p) != e}
    assert all(len(shard.entries) <= files for shard in plan.shards())


def kept(plan: Plan) -> list[str]:
    return [path for path, status in zip(*plan.rows.select(["path", "status"]).to_pydict().values(), strict=True)
            if status == "keep"]  # fmt: skip


def test_what_is_known_beneath_an_unreadable_folder_stays_as_it_was() -> None:
    known = after(planned([entry(name) for name in ("a/1", "b.jpg", "b/1", "b/c/2", "c/1")]))
    listing = [entry("a/1"), entry("b.jpg"), entry("c/1")]
    plan = make_plan(listing, known, source="/src", packing=TWO, unreadable=lambda: ["b/"])
    assert (plan.count("keep"), plan.count("drop"), plan.count("add")) == (5, 0, 0)
    assert entries(after(plan)) == entries(known)
    without = make_plan(listing, known, source="/src", packing=TWO)
    assert without.count("drop") == 2


def test_a_file_that_could_not_be_asked_for_stays_and_the_top_folder_keeps_all() -> None:
    known = after(planned([entry("a"), entry("b"), entry("bc")]))
    one = make_plan([entry("a")], known, source="/src", packing=TWO, unreadable=lambda: ["b"])
    assert kept(one) == ["a", "b"]
    everything = make_plan([entry("a", "2")], known, source="/src", packing=TWO, unreadable=lambda: [""])
    assert kept(everything) == ["b", "bc"]
    assert (everything.count("add"), everything.count("drop")) == (1, 1), "what is listed anew counts"


def test_unreadable_folders_may_become_known_while_the_listing_is_read() -> None:
    known = after(planned([entry("a/1"), entry("b/1"), entry("c/1")]))
    noted: list[str] = []

    def listing() -> Iterator[Entry]:
        yield entry("a/1")
        noted.append("b/")
        yield entry("c/1")

    plan = make_plan(listing(), known, source="/src", packing=TWO, unreadable=lambda: list(noted))
    assert kept(plan) == ["a/1", "b/1", "c/1"]


@pytest.mark.parametrize("packing", [TWO, None])
def test_a_file_that_changed_in_place_is_another_one_where_both_sides_say_when_it_changed(
    packing: Packing | None,
) -> None:
    first = planned([entry(name, changed=5) for name in "abc"], packing=packing)
    known = after(first)
    assert [e.changed for e, _ in entries(known)] == [5, 5, 5]
    again = planned([entry("a", changed=5), entry("b", changed=6), entry("c")], known, packing)
    rows = list(zip(again.rows["path"].to_pylist(), again.rows["status"].to_pylist(), strict=True))
    assert rows == [("a", "keep"), ("b", "drop"), ("b", "add"), ("c", "keep")]
    ids = {shard.id for shard in first.shards()}
    (shard,) = again.shards()
    assert shard.id not in ids, "that of its size and etag has a record, of other bytes"
    assert {e.path: e.changed for e, _ in entries(after(again))} == {"a": 5, "b": 6, "c": None}
    (repeated,) = planned([entry("a", changed=5), entry("b", changed=6), entry("c")], known, packing).shards()
    assert repeated.id == shard.id, "a run that is repeated has its record"


def test_when_a_file_changed_enters_no_shard_id_and_is_learnt_without_a_change() -> None:
    told, untold = ([entry(name, changed=value) for name in "abc"] for value in (5, None))
    assert [shard.id for shard in planned(told).shards()] == [shard.id for shard in planned(untold).shards()]
    known = after(planned(untold))
    plan = planned(told, known)
    assert (plan.count("keep"), plan.changes) == (3, False)
    assert [e.changed for e, _ in entries(after(plan))] == [5, 5, 5]


def test_a_shard_says_where_it_lies_and_what_it_holds() -> None:
    one, two = entry("a.tar", "x", 7), entry("b.tar", "y", 8)
    assert [(s.uri, s.etag, s.bytes, s.entries) for s in planned([one, two], packing=None).shards()] == [
        ("/src/a.tar", "x", 7, (one,)),
        ("/src/b.tar", "y", 8, (two,)),
    ]
    packs = list(planned([one, two, entry("c", "z", 9)]).shards())
    assert [(s.uri, s.bytes, len(s.entries)) for s in packs] == [("/src", 15, 2), ("/src", 9, 1)]
    assert [s.etag for s in packs] == [s.id for s in packs], "a pack of one file, too, lies in the source"


def test_what_a_plan_would_do_is_counted_and_said() -> None:
    known = after(planned([entry("a"), entry("b"), entry("c")]))
    plan = planned([entry("a"), entry("b", "2", 5), entry("d", size=6), entry("e", size=7)], known)
    assert plan.counts == {"keep": 1, "renew": 0, "drop": 2, "add": 3}
    assert plan.reason == "3 new or changed, 2 changed or gone, 1 as they were"
    assert (plan.bytes_to_read, plan.new_shards, plan.changes) == (18, 2, True)
    gone = planned([entry("a"), entry("b")], known)
    assert (gone.reason, gone.changes) == ("0 new or changed, 1 changed or gone, 2 as they were", True)
    assert (gone.bytes_to_read, gone.new_shards) == (0, 0)
    same = planned([entry("a"), entry("b"), entry("c")], known)
    assert (same.changes, same.new_shards) == (False, 0)


@pytest.mark.parametrize("paths", [["b", "a"], ["a", "a"], ["a", "b", "b"], [""]], ids=str)
def test_a_listing_that_is_not_in_order_or_names_an_entry_twice_is_refused(paths: list[str]) -> None:
    with pytest.raises(UserError, match="is not sorted, or names an entry twice"):
        planned([entry(path) for path in paths])


@pytest.mark.parametrize("last", [BATCH - 1, BATCH - 2], ids=["twice", "before"])
def test_a_listing_is_in_order_across_its_batches_too(last: int) -> None:
    listing = [entry(f"{number:06d}") for number in range(BATCH)]
    with pytest.raises(UserError, match=f"listing near {last:06d}: is not sorted"):
        planned([*listing, entry(f"{last:06d}")], packing=Packing())


def test_a_listing_of_several_batches_is_planned_as_a_whole() -> None:
    listing = [entry(f"{number:06d}", changed=number) for number in range(2 * BATCH + 3)]
    plan = planned(listing, packing=Packing(files=BATCH + 1, bytes=1 << 40))
    assert [batch.num_rows for batch in plan.batches()] == [BATCH, BATCH, 3]
    assert [e for shard in plan.shards() for e in shard.entries] == listing
    assert (plan.count("add"), plan.new_shards) == (len(listing), len(list(plan.shards())))
    known = after(plan)
    assert [e.changed for e, _ in entries(known)] == list(range(2 * BATCH + 3))
    again = planned([e for e in listing if e.path not in ("000000", f"{BATCH:06d}")], known)
    assert (again.count("keep"), again.count("drop"), again.count("add")) == (2 * BATCH + 1, 2, 0)


class Once:
    """Extracts again what a path begins with."""

    reason = "try 1"

    def chosen(self, known: pa.Table) -> pa.Array:
        return pc.fill_null(pc.starts_with(known["path"], "again"), fill_value=False)


def test_what_is_extracted_again_is_dropped_and_added_though_it_is_as_it_was_and_new_entries_are_new() -> None:
    listing = [entry(path) for path in ("a", "again 1", "again 2", "b")]
    first = planned(listing)
    plan = make_plan([*listing, entry("c")], after(first), source="/src", packing=TWO, again=Once())
    rows = list(zip(plan.rows["path"].to_pylist(), plan.rows["status"].to_pylist(), strict=True))
    both = [(path, status) for path in ("again 1", "again 2") for status in ("drop", "add")]
    assert rows == [("a", "keep"), *both, ("b", "keep"), ("c", "add")]
    assert not {shard.id for shard in plan.shards()} & {shard.id for shard in first.shards()}
    unpacked = plan.spool.batches()
    assert [row["shard"] for batch in unpacked for row in batch.to_pylist() if row["status"] == "add"] == [
        "try 1",
        "try 1",
        "",
    ]


@pytest.mark.parametrize(
    ("unreadable", "expected"),
    [
        ([], []),
        (["a"], ["a", "a/x", "a/y/z"]),
        (["a/"], ["a", "a/x", "a/y/z"]),
        (["a/y"], ["a/y/z"]),
        (["a/x", "ab"], ["a/x", "ab"]),
        (["y"], []),
        ([""], ["a", "a/x", "a/y/z", "ab", "b"]),
    ],
)
def test_what_is_known_stays_where_it_or_a_folder_that_it_lies_in_could_not_be_read(
    unreadable: list[str], expected: list[str]
) -> None:
    known = after(planned([entry(path) for path in ("a", "a/x", "a/y/z", "ab", "b")]))
    plan = make_plan([], known, source="/src", packing=TWO, unreadable=lambda: unreadable)
    assert kept(plan) == expected
    assert plan.count("drop") == 5 - len(expected)
