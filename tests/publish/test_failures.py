"""Records of containers that cannot be read: which one counts, what it holds for, and which a run may still need."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc
import pytest

from pipeline.core.memory import MemoryStore
from pipeline.core.specs import canonical, spec_class
from pipeline.core.types import Artifact, DescriptorFile, Entry, Shard
from pipeline.publish import failures
from pipeline.publish.catalog import Catalog
from pipeline.publish.failures import Failure, failure_of
from pipeline.publish.listing import SCHEMA, NewListing
from pipeline.publish.plan import Plan, make_plan
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Snapshot, Summary, snapshot_bytes

RECIPE = Recipe(
    source=spec_class("pipeline.sources", "tar")(),
    extractor=spec_class("pipeline.extract", "histogram")(),
)
NOTHING = NewListing().finish()
NOWHERE = Artifact(uri="manifests/x.parquet", sha256="0" * 64, bytes=1)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalog(clock: Clock) -> Catalog:
    return Catalog(MemoryStore("root", clock))


def entry(path: str, etag: str = "1", changed: int | None = None) -> Entry:
    return Entry(path=path, size=10, etag=etag, changed=changed)


def planned(entries: list[Entry], known: NewListing = NOTHING) -> Plan:
    return make_plan(entries, known, source="/src", packing=None)


def failed(plan: Plan, path: str, **update: Any) -> Failure:
    (shard,) = (shard for shard in plan.shards() if shard.entries[0].path == path)
    return failure_of(shard, "truncated", "2026-01-01").model_copy(update=update)


def record(catalog: Catalog, shard: str) -> Failure:
    return Failure.model_validate_json(catalog.store.read(catalog.failure_name(RECIPE.source_id, shard)))


def snapshot(version: int, operation: str = "index", **update: Any) -> Snapshot:
    return Snapshot(
        version=version,
        parent=version - 1 or None,
        writer="w",
        created_at="2026-01-01",
        source="/src",
        recipe=RECIPE,
        listing=NOWHERE,
        descriptors=NOWHERE,
        indexes=NOWHERE,
        tombstones=NOWHERE,
        operation=operation,
        summary=Summary(**update),
    )


def publish(catalog: Catalog, one: Snapshot) -> Snapshot:
    catalog.store.write(catalog.snapshot_name(one.version), snapshot_bytes(one))
    return one


def test_a_record_says_what_failed_when_and_how_often() -> None:
    shard = Shard(id="s", uri="/src/a.tar", bytes=10, etag="1", entries=(entry("a.tar", changed=7),))
    first = failure_of(shard, "truncated", "2026-01-01")
    assert first == Failure(
        shard_id="s", path="a.tar", size=10, etag="1", changed=7, reason="truncated", since="2026-01-01", attempts=1
    )
    assert first.reading == failures.READING
    older = first.model_copy(update={"reading": failures.READING - 1})
    assert older.again("no tar") == first.model_copy(update={"reason": "no tar", "attempts": 2})


@pytest.mark.parametrize(
    ("known", "new", "counts"),
    [
        ({"attempts": 2}, {"attempts": 3}, "new"),
        ({"attempts": 3}, {"attempts": 2}, "known"),
        ({"attempts": 2}, {"attempts": 2}, "known"),
        ({"attempts": 9, "etag": "0"}, {"attempts": 1}, "new"),
        ({"attempts": 9, "path": "b.tar"}, {"attempts": 1}, "new"),
        ({"attempts": 9, "size": 11}, {"attempts": 1}, "new"),
        ({"attempts": 9, "reading": failures.READING - 1}, {"attempts": 1}, "new"),
        ({"attempts": 9, "changed": 1}, {"attempts": 1, "changed": 2}, "new"),
        ({"attempts": 9, "changed": 1}, {"attempts": 1}, "known"),
        ({"attempts": 9}, {"attempts": 1, "changed": 1}, "known"),
        ({"attempts": 9, "changed": 1}, {"attempts": 1, "changed": 1}, "known"),
    ],
)
def test_of_two_records_of_the_same_bytes_the_one_of_more_attempts_counts_and_the_first_of_equal_ones(
    catalog: Catalog, known: dict[str, Any], new: dict[str, Any], counts: str
) -> None:
    one = Failure(shard_id="s", path="a.tar", size=10, etag="1", reason="known", since="x").model_copy(update=known)
    other = Failure(shard_id="s", path="a.tar", size=10, etag="1", reason="new", since="x").model_copy(update=new)
    failures.remember(catalog, RECIPE, one)
    assert record(catalog, "s") == one
    failures.remember(catalog, RECIPE, other)
    assert record(catalog, "s").reason == counts


@pytest.mark.parametrize("data", [b"", b"{}", canonical({"shard_id": "s"})])
def test_a_record_that_is_malformed_is_written_anew(catalog: Catalog, data: bytes) -> None:
    catalog.store.write(catalog.failure_name(RECIPE.source_id, "s"), data)
    one = Failure(shard_id="s", path="a.tar", size=10, etag="1", reason="new", since="x")
    failures.remember(catalog, RECIPE, one)
    assert record(catalog, "s") == one


def test_what_is_forgotten_is_known_no_more_and_the_rest_is(catalog: Catalog) -> None:
    plan = planned([entry("a.tar"), entry("b.tar")])
    for path in ("a.tar", "b.tar"):
        failures.remember(catalog, RECIPE, failed(plan, path))
    shards = {shard.entries[0].path: shard.id for shard in plan.shards()}
    failures.forget(catalog, RECIPE, [shards["a.tar"], "never there"])
    known, void = failures.remembered(catalog, RECIPE, plan)
    assert ({name: one.path for name, one in known.items()}, void) == ({shards["b.tar"]: "b.tar"}, ())


def test_what_is_known_to_fail_are_the_new_shards_of_which_a_sound_record_says_so(catalog: Catalog) -> None:
    listed = [entry(f"{name}.tar", changed=5) for name in "abcdefg"]
    plan = planned(listed)
    shards = {shard.entries[0].path[0]: shard.id for shard in plan.shards()}
    assert failures.remembered(catalog, RECIPE, plan) == ({}, ())
    updates: dict[str, dict[str, Any]] = {
        "a": {},
        "b": {"changed": None},
        "c": {"changed": 6},
        "d": {"shard_id": "other"},
        "e": {},
        "f": {"etag": "other"},
    }
    for name, update in updates.items():
        data = failed(plan, f"{name}.tar", **update).model_dump(mode="json")
        catalog.store.write(catalog.failure_name(RECIPE.source_id, shards[name]), canonical(data))
    # Of e there is a descriptor file.
    done = catalog.put_artifact(b"x", "x.parquet")
    file = DescriptorFile(
        shard_id=shards["e"],
        writer="w",
        artifact=done,
        rows=1,
        indexed=1,
        rejected=0,
        duplicates=0,
        dim=1,
        dtype="float32",
    )
    catalog.complete(catalog.record_name(RECIPE.descriptor_id, shards["e"]), file)
    odd = ("failures/odd", f"failures/{RECIPE.source_id}/{shards['g']}.txt", f"failures/{RECIPE.source_id}/x/y.json")
    for name in odd:
        catalog.store.write(name, b"")
    failures.remember(catalog, RECIPE, Failure(shard_id="z", path="z.tar", size=1, etag="", reason="", since=""))
    known, void = failures.remembered(catalog, RECIPE, plan)
    assert set(known) == {shards["a"], shards["b"]}
    assert {one.path for one in known.values()} == {"a.tar", "b.tar"}
    assert void == tuple(sorted(shards[name] for name in "cdef"))
    published = after(plan)
    assert failures.remembered(catalog, RECIPE, planned(listed, published)) == ({}, ()), "none of them is new"


def after(plan: Plan) -> NewListing:
    rows = NewListing()
    for batch in plan.batches():
        rows.append(batch.filter(pc.not_equal(batch["status"], "drop")).select(SCHEMA.names))
    return rows.finish()


def test_a_plan_without_those_that_fail_leaves_what_is_published_of_them_as_it_was() -> None:
    known = after(planned([entry("a.tar"), entry("b.tar"), entry("d.tar")]))
    now = [entry("a.tar", "2"), entry("b.tar", "2"), entry("c.tar")]
    plan = planned(now, known)
    shards = {shard.entries[0].path: shard.id for shard in plan.shards()}
    assert failures.without(plan, {}) is plan
    rest = failures.without(plan, {shards[path]: failed(plan, path) for path in ("a.tar", "c.tar")})
    rows = [(row["path"], row["status"], row["etag"]) for row in rest.rows.to_pylist()]
    assert rows == [("a.tar", "keep", "1"), ("b.tar", "drop", "1"), ("b.tar", "add", "2"), ("d.tar", "drop", "1")]
    assert [shard.id for shard in rest.shards()] == [shards["b.tar"]]
    assert (rest.count("keep"), rest.count("drop"), rest.count("add")) == (1, 2, 1)
    assert rest.reason.endswith(", 2 failed before and have not changed")
    assert (rest.source, rest.packing) == (plan.source, plan.packing)


def test_a_run_may_need_what_the_latest_run_saw_fail_and_what_came_after_it(catalog: Catalog, clock: Clock) -> None:
    def remember(shard: str) -> None:
        one = Failure(shard_id=shard, path=f"{shard}.tar", size=1, etag="1", reason="truncated", since="x")
        failures.remember(catalog, RECIPE, one)

    head = snapshot(1, set_aside=("still",))
    assert list(failures.needed(catalog, head)) == []
    remember("still")
    remember("mended")
    clock.now += 10
    publish(catalog, head)
    remember("with it")
    clock.now += 10
    remember("after it")
    catalog.store.write("failures/of-another-source/still.json", b"")
    catalog.store.write("failures/odd", b"")
    needed = {each.path.rpartition("/")[2]: is_needed for each, is_needed in failures.needed(catalog, head)
              if each.path.startswith(f"failures/{RECIPE.source_id}")}  # fmt: skip
    assert needed == {"still.json": True, "mended.json": False, "with it.json": True, "after it.json": True}
    others = [is_needed for each, is_needed in failures.needed(catalog, head) if RECIPE.source_id not in each.path]
    assert others == [False, False]
    assert [one.path for one in failures.failing(catalog, head)] == ["after it.tar", "still.tar", "with it.tar"]


@pytest.mark.parametrize("rotten", [False, True], ids=["", "one of them is rotten"])
def test_what_fails_is_in_the_latest_snapshot_of_a_run_however_many_edits_followed(
    catalog: Catalog, clock: Clock, rotten: bool
) -> None:
    one = Failure(shard_id="mended", path="a.tar", size=1, etag="1", reason="truncated", since="x")
    publish(catalog, snapshot(1, set_aside=("mended",)))
    failures.remember(catalog, RECIPE, one)
    clock.now += 10
    publish(catalog, snapshot(2, set_aside=()))
    clock.now += 10
    for version in (3, 4, 5):
        head = publish(catalog, snapshot(version, "delete"))
        clock.now += 10
    if rotten:
        catalog.store.write(catalog.snapshot_name(4), b"rotten")
    assert failures.failing(catalog, head) == [], "it had been read by the run of 2"
    failures.remember(catalog, RECIPE, one.model_copy(update={"shard_id": "b", "path": "b.tar"}))
    assert [failure.path for failure in failures.failing(catalog, head)] == ["b.tar"]


def test_one_that_the_first_run_saw_fail_is_needed_after_edits(catalog: Catalog, clock: Clock) -> None:
    one = Failure(shard_id="s", path="a.tar", size=1, etag="1", reason="truncated", since="x")
    failures.remember(catalog, RECIPE, one)
    clock.now += 10
    publish(catalog, snapshot(1, set_aside=("s",)))
    clock.now += 10
    head = publish(catalog, snapshot(2, "delete"))
    assert failures.failing(catalog, head) == [one]
    assert failures.failing(catalog, replace_recipe(head)) == [], "of a source that is read otherwise"


def replace_recipe(head: Snapshot) -> Snapshot:
    tar = spec_class("pipeline.sources", "tar")
    recipe = head.recipe.model_copy(update={"source": tar.model_validate({"exclude": ["*.txt"]})})
    return head.model_copy(update={"recipe": recipe})
