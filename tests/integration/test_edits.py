"""Delete, restore, compact, roll back, tag and expire, as users do them: what each does, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from jobs.delete import EditOptions, delete
from pipeline.core import memory
from pipeline.core.errors import ConflictError, SightlineError, UserError
from pipeline.core.storage import open_store
from pipeline.publish import manifests, marks
from pipeline.publish.leases import Lease, LeaseTimes, hold, live_leases, read_leases
from pipeline.publish.lists import load_lists
from tests.builders import tar_bytes
from tests.faulty import StopAt, Watched
from tests.life import RECIPE, InMemory, digests, in_memory

IMAGES = {f"{n:02d}.jpg": f"image {n}" for n in range(8)}


@pytest.fixture
def here() -> Iterator[InMemory]:
    with in_memory() as made:
        for key, content in IMAGES.items():
            made.put(key, content)
        made.life.index()
        yield made


@pytest.fixture
def tars() -> Iterator[InMemory]:
    with in_memory() as made:
        made.life.kind = "tar"
        for name in "ab":
            made.images.write(f"{name}.tar", tar_bytes({f"{n}.jpg": f"{name}{n}".encode() for n in range(3)}))
        made.life.index()
        yield made


def without(*keys: str) -> dict[str, str]:
    return digests({key: content for key, content in IMAGES.items() if key not in keys})


def test_a_deleted_image_stays_out_until_it_is_restored(here: InMemory) -> None:
    assert here.life.delete("03.jpg")["deleted"] == 1
    assert here.life.live() == without("03.jpg")
    for _ in range(2):
        here.put("03.jpg", "image 3")  # the source has it, and even a new copy of it
        here.clock.now += 100
        here.life.index()
        here.life.check()
        assert here.life.live() == without("03.jpg")
    here.life.compact()
    assert here.life.live() == without("03.jpg")
    here.life.restore("03.jpg")
    assert here.life.live() == without("03.jpg"), "a restore allows, the next run brings"
    assert here.life.index().images["added"] == 1
    here.life.check()
    assert here.life.live() == without()


def test_an_image_alone_in_its_shard_can_be_deleted_and_restored_again_and_again(here: InMemory) -> None:
    here.put("zz.jpg", "alone")
    here.life.index()
    for _ in range(3):
        here.life.delete("zz.jpg")
        here.life.restore("zz.jpg")
        assert here.life.index().images["added"] == 1
        here.life.check()
        assert here.life.live() == digests({**IMAGES, "zz.jpg": "alone"})


def test_a_deleted_member_of_a_tar_stays_out_when_the_tar_changes(tars: InMemory) -> None:
    tars.life.delete("a.tar/1.jpg")
    tars.images.write("a.tar", tar_bytes({f"{n}.jpg": f"a{n}".encode() for n in range(5)}))
    assert tars.life.index().images["added"] == 4
    tars.life.check()
    assert sorted(k for k in tars.life.live() if k.startswith("a")) == [f"a.tar/{n}.jpg" for n in (0, 2, 3, 4)]
    tars.life.restore("a.tar/1.jpg")
    tars.life.index()
    tars.life.check()
    assert "a.tar/1.jpg" in tars.life.live()


def test_a_restored_member_comes_back_without_reading_the_tar_while_its_record_is_there(tars: InMemory) -> None:
    tars.life.delete("a.tar/1.jpg")
    tars.life.compact()
    tars.life.restore("a.tar/1.jpg")
    counted = StopAt()
    memory.register(f"{tars.name}-src", Watched(tars.images, counted))
    assert tars.life.index().images["indexed"] == 6
    assert [at for at in counted.operations if at.startswith(("open", "read", "local"))] == []
    tars.life.check()


def test_a_deletion_outlives_a_change_of_recipe(here: InMemory) -> None:
    here.life.delete("03.jpg", "05.jpg")
    store = here.life.recipe.rpartition("/")[0]
    open_store(store).write("other.toml", RECIPE.replace('"toy"', '"toy"\nseed = 1').encode())
    other = replace(here.life, recipe=f"{store}/other.toml")
    assert other.index().images["indexed"] == 6
    other.check()
    assert other.live() == without("03.jpg", "05.jpg")


def test_what_is_not_there_is_refused_by_name_unless_it_may_be_missing(here: InMemory) -> None:
    with pytest.raises(UserError, match=r"nothing\.jpg: is no image of snapshot 1"):
        delete(EditOptions(root=here.life.root, keys=["00.jpg", "nothing.jpg"]))
    assert here.life.catalog.versions() == [1], "nothing is published for half of it"
    assert here.life.delete("nothing.jpg")["unknown"] == ["nothing.jpg"]
    assert here.life.catalog.versions() == [1]


def test_a_rollback_brings_back_what_was_gone_and_not_what_was_deleted(here: InMemory) -> None:
    here.images.delete("00.jpg")
    here.life.index()
    here.life.delete("01.jpg")
    assert here.life.live() == without("00.jpg", "01.jpg")
    told = here.life.rollback(1)
    assert (told["snapshot"], told["content_of"]) == (4, 1)
    here.life.check()
    assert here.life.live() == without("01.jpg")
    here.life.index()
    assert here.life.live() == without("00.jpg", "01.jpg"), "the next run sees the source again"


def test_a_rollback_to_the_head_or_to_nothing_is_refused(here: InMemory) -> None:
    with pytest.raises(UserError, match="is the head"):
        here.life.rollback(1)
    with pytest.raises(UserError, match="has no snapshot 7"):
        here.life.rollback(7)


def test_compaction_leaves_no_dead_row_and_few_shards_and_changes_no_result(here: InMemory) -> None:
    here.life.delete("03.jpg")
    for number in range(20, 26):
        here.put(f"{number}.jpg", f"image {number}")
        here.life.index()
    live = here.life.live()
    lists = load_lists(here.life.catalog, here.life.catalog.require_head())
    assert (lists.indexes.num_rows, lists.tombstones.num_rows) == (14, 1)
    told = here.life.compact()
    assert (told["rewritten"], told["published"]) == (1, True)
    lists = load_lists(here.life.catalog, here.life.catalog.require_head())
    assert (lists.indexes.num_rows, lists.tombstones.num_rows) == (2, 0)
    here.life.check()
    assert here.life.live() == live
    assert not here.life.compact()["published"]


def test_expire_deletes_what_only_old_snapshots_name_and_says_so_before(here: InMemory) -> None:
    here.images.delete("00.jpg")
    here.put("01.jpg", "changed")
    here.life.index()
    here.life.compact()
    objects = set(here.objects.objects)
    told = here.life.expire(dry_run=True)
    assert set(here.objects.objects) == objects, "a dry run writes nothing"
    assert (told["expired"], told["kept"]) == ([1, 2], [3])
    done = here.life.expire()
    assert objects - set(here.objects.objects) == set(told["objects"])
    assert (done["deleted"], done["complete"]) == (len(told["objects"]), True)
    here.life.check()
    assert not here.life.expire()["deleted"]
    with pytest.raises(UserError, match="snapshot 1 has expired"):
        here.life.rollback(1)


def test_nothing_young_is_deleted_and_nothing_that_was_served_not_long_ago(here: InMemory) -> None:
    here.put("01.jpg", "changed")
    here.life.index()
    here.life.compact()
    assert here.life.expire(keep=7, grace=7)["deleted"] == 0
    assert here.life.expire(keep=0, grace=7)["deleted"] == 0
    here.clock.now += 8 * 86_400
    assert here.life.expire(keep=7, grace=7)["deleted"] > 0
    here.life.check()


@pytest.mark.parametrize("jump", [-365 * 86_400, -3_600, 3_600])
def test_a_clock_that_jumps_costs_nothing_that_is_kept(here: InMemory, jump: int) -> None:
    here.put("01.jpg", "changed")
    here.life.index()
    here.clock.now += jump
    here.life.expire(keep=1, grace=1)
    here.life.check()
    assert here.life.live(1) == without()


def test_what_a_worker_held_for_dead_wrote_later_is_garbage_and_no_conflict(here: InMemory) -> None:
    lists = load_lists(here.life.catalog, here.life.catalog.require_head())
    (file, *_) = manifests.descriptor_files(lists.descriptors)
    zombie = file.model_copy(update={"writer": "zombie", "artifact": file.artifact.model_copy(update={"uri": "z"})})
    name = here.life.catalog.record_name(file.artifact.uri.split("/")[1], file.shard_id)
    late = file.artifact.uri.replace(file.writer, "zombie")
    here.objects.write(late, b"written later")
    assert here.life.catalog.complete(name, zombie) == file, "the first record counts"
    here.life.index()
    here.life.check()
    here.life.expire(grace=7)
    assert here.objects.exists(late)
    here.clock.now += 8 * 86_400
    here.life.expire(grace=7)
    assert not here.objects.exists(late)
    here.life.check()
    assert here.life.live() == without()


def test_a_tag_keeps_a_snapshot_until_it_is_taken_away(here: InMemory) -> None:
    here.life.tag("gold")
    here.put("01.jpg", "changed")
    here.life.index()
    assert here.life.expire()["kept"] == [1, 2]
    assert here.life.live(1) == without()
    with pytest.raises(UserError, match="names snapshot 1"):
        here.life.tag("gold", 2)
    marks.delete_tag(here.objects, "gold")
    assert here.life.expire()["kept"] == [2]
    with pytest.raises(UserError, match="no name"):
        here.life.tag("../x")


def test_nothing_is_deleted_while_a_run_is_at_work(here: InMemory) -> None:
    here.put("01.jpg", "changed")
    here.life.index()
    with hold(here.objects, Lease(writer="somebody", operation="index"), here.life.times):
        told = here.life.expire()
        assert (told["deleted"], told["complete"]) == (0, False)
        assert told["busy"] == ["index by writer somebody"]
    assert here.life.expire()["deleted"] > 0


def test_a_dead_lease_is_removed_only_when_it_does_not_stir() -> None:
    with in_memory() as here:
        times = LeaseTimes(beat=1000.0, silent=900.0, watch=0.0)
        here.objects.write("leases/dead.json", b'{"operation":"index","writer":"dead"}')
        here.objects.write("leases/broken.json", b"{")
        now = here.clock()
        assert [lease.writer for lease in live_leases(here.objects, now=now, times=times)] == ["broken", "dead"]
        here.clock.now += 10_000
        here.objects.write("leases/alive.json", b'{"operation":"index","writer":"alive"}')
        assert [lease.writer for lease in live_leases(here.objects, now=here.clock(), times=times)] == ["alive"]
        assert [lease.writer for lease, _ in read_leases(here.objects)] == ["alive"]


def test_a_run_whose_lease_was_taken_away_publishes_nothing(here: InMemory) -> None:
    with hold(here.objects, Lease(writer="sleeper", operation="index"), here.life.times) as held:
        here.objects.delete("leases/sleeper.json")
        with pytest.raises(SightlineError, match="lease has lapsed; nothing was published"):
            held.check()


def test_i4_two_runs_that_change_an_entry_differently_conflict_and_both_are_named(here: InMemory) -> None:
    here.put("00.jpg", "first change")
    hook = Interloper(here)
    with here.through(hook.wrap), pytest.raises(ConflictError) as caught:
        here.life.index()
    assert "both changed 00.jpg" in str(caught.value)
    assert f"snapshot 2 was committed by writer {hook.writer} (index)" in str(caught.value)
    assert "while writer " in str(caught.value)
    here.life.index()
    here.life.check()
    assert here.life.live() == digests({**IMAGES, "00.jpg": "second change"})


class Interloper:
    """Another run that sees a newer source and commits first, just before the first one does."""

    def __init__(self, here: InMemory) -> None:
        self.here, self.done, self.writer = here, False, ""

    def wrap(self, store: object) -> object:
        return Watched(store, self)  # type: ignore[arg-type]

    def __call__(self, kind: str, name: str, carry_out: object) -> object:
        if kind == "put_if_absent" and name.startswith("snapshots/") and not self.done:
            self.done = True
            self.here.put("00.jpg", "second change")
            self.here.life.index()
            self.writer = self.here.life.catalog.require_head().writer
        return carry_out()  # type: ignore[operator]
