"""Merge: the counts, tombstones and index shards of snapshot after snapshot, against a model that is a dict."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pipeline.core import memory
from pipeline.publish import manifests
from pipeline.publish.listing import NewListing
from pipeline.publish.lists import load_lists
from pipeline.stages.deletions import copies_of
from pipeline.stages.merge import live_images, pruned, unchanged
from tests.builders import tar_bytes
from tests.life import InMemory, in_memory
from tests.unwell import Unwell

Files = dict[str, str]
KEYS = [f"{n:02d}.jpg" for n in range(9)]


@pytest.fixture
def here() -> Iterator[InMemory]:
    with in_memory() as made:
        yield made


def sound(files: Files) -> Files:
    return {key: text for key, text in files.items() if not text.startswith("bad")}


def put_files(here: InMemory, files: Files) -> None:
    for entry in list(here.images.list()):
        if entry.path not in files:
            here.images.delete(entry.path)
    for key, text in files.items():
        if not here.images.exists(key) or here.images.read(key) != text.encode():
            here.put(key, text)


def put_tars(here: InMemory, files: Files) -> None:
    """Three images to a tar: one that changes is extracted whole."""
    tars: dict[str, Files] = {}
    for key, text in files.items():
        tars.setdefault(f"{int(key[:2]) // 3}.tar", {})[key] = text
    for entry in list(here.images.list()):
        if entry.path not in tars:
            here.images.delete(entry.path)
    for name, members in tars.items():
        data = tar_bytes({key: text.encode() for key, text in sorted(members.items())})
        if not here.images.exists(name) or here.images.read(name) != data:
            here.images.write(name, data)


def step(files: Files, dice: random.Random, number: int) -> Files:
    """Some images come, some go, some change; a few are none."""
    now = dict(files)
    for key in dice.sample(KEYS, dice.randrange(1, 5)):
        if key in now and dice.random() < 0.4:
            del now[key]
        else:
            now[key] = f"{'bad' if dice.random() < 0.15 else 'img'} {key} {number}"
    return now if sound(now) else {**now, "00.jpg": f"img 00 {number}"}


def movement(before: Files, now: Files) -> tuple[int, int]:
    """How many images came and went, where each is by itself."""
    old, new = sound(before), sound(now)
    return (
        sum(new[key] != old.get(key) for key in new),
        sum(old[key] != new.get(key) for key in old),
    )


def moved_tars(before: Files, now: Files) -> tuple[int, int]:
    """The same where a container comes and goes whole."""
    numbers = {int(key[:2]) // 3 for key in {*before, *now} if before.get(key) != now.get(key)}
    came = sum(int(key[:2]) // 3 in numbers for key in sound(now))
    return came, sum(int(key[:2]) // 3 in numbers for key in sound(before))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "put", "moved"), [("folder", put_files, movement), ("tar", put_tars, moved_tars)])
def test_every_snapshot_counts_what_it_holds_and_what_moved(
    here: InMemory, kind: str, put: Callable[[InMemory, Files], None], moved: Callable[[Files, Files], tuple[int, int]],
    seed: int,
) -> None:  # fmt: skip
    here.life.kind = kind
    dice = random.Random(seed)
    files: Files = {}
    for number in range(6):
        before, files = files, step(files, dice, number)
        put(here, files)
        report = here.life.index()
        if before == files:
            assert not report.published
            continue
        summary = here.life.catalog.require_head().summary
        assert (summary.images, summary.seen) == (len(sound(files)), len(files))
        assert (summary.rejected, summary.duplicates) == (len(files) - len(sound(files)), 0)
        assert (summary.added, summary.removed) == moved(before, files)
        check_lists(here)
    here.life.check()
    assert {key.rpartition("/")[2] for key in here.life.live()} == set(sound(files))


def check_lists(here: InMemory) -> None:
    """Tombstones are of files that something still holds; index shards hold a live file, and together all of them."""
    head = here.life.catalog.require_head()
    lists = load_lists(here.life.catalog, head)
    ids = set(lists.descriptors["id"].to_pylist())
    shards = manifests.index_shards(lists.indexes)
    indexed = {name for shard in shards for name in shard.files}
    dead = manifests.tombstones(lists.tombstones)
    assert set(dead) <= ids | indexed
    assert {file.id for file in manifests.descriptor_files(lists.descriptors) if file.indexed} <= indexed
    assert all(ids & set(shard.files) for shard in shards)
    listed = {row["shard"] for batch in lists.listing.batches() for row in batch.to_pylist()}
    assert {file.shard_id for file in manifests.descriptor_files(lists.descriptors)} == listed
    gone = indexed - ids
    assert gone <= set(dead), "an index shard holds rows of a file that is gone: all of them are dead"
    assert live_images(lists.descriptors, lists.tombstones) == head.summary.images
    assert pruned(lists).tombstones.equals(lists.tombstones), "and none is named that nothing needs"


def test_a_tombstone_that_nothing_needs_any_more_is_left_out(here: InMemory) -> None:
    put_files(here, {key: f"img {key}" for key in KEYS})
    here.life.index()
    put_files(here, {key: f"img {key}" for key in KEYS[1:]})
    here.life.index()
    lists = load_lists(here.life.catalog, here.life.catalog.require_head())
    assert lists.tombstones.num_rows == 1
    (name,) = lists.tombstones["file"].to_pylist()
    without = lists.descriptors.filter([other != name for other in lists.descriptors["id"].to_pylist()])
    assert pruned(replace(lists, descriptors=without)).tombstones.num_rows == 1, "an index shard still holds its rows"
    none = manifests.index_table([])
    assert pruned(replace(lists, indexes=none)).tombstones.num_rows == 1, "the file is live"
    assert pruned(replace(lists, descriptors=without, indexes=none)).tombstones.num_rows == 0


def test_what_is_set_aside_stays_as_it_was_and_its_new_state_comes_with_a_later_run(here: InMemory) -> None:
    put_files(here, {key: f"img {key}" for key in KEYS})
    here.life.index()
    unwell = Unwell(here.images)
    memory.register(f"{here.name}-src", unwell)
    now = {key: f"img {key} changed" if key < "04" else f"img {key}" for key in KEYS[:-1]} | {"10.jpg": "img 10"}
    put_files(here, now)
    for key in ("00.jpg", "01.jpg", "10.jpg"):
        unwell.fails[key] = (lambda name: OSError(5, "Input/output error", name), 0)
    report = here.life.index()
    summary = here.life.catalog.require_head().summary
    assert report.exit_code == 4
    assert (summary.images, summary.added, summary.removed) == (8, 2, 3), "two changed, one gone"
    check_lists(here)
    unwell.fails.clear()
    here.life.index()
    summary = here.life.catalog.require_head().summary
    assert (summary.images, summary.added, summary.removed) == (9, 3, 2)
    check_lists(here)
    here.life.check()


def test_lists_are_unchanged_when_listing_descriptors_and_tombstones_are(here: InMemory) -> None:
    put_files(here, {key: f"img {key}" for key in KEYS})
    here.life.index()
    first = load_lists(here.life.catalog, here.life.catalog.require_head())
    here.life.delete("03.jpg")
    second = load_lists(here.life.catalog, here.life.catalog.require_head())

    def rewritten(leave: int = 0) -> NewListing:
        made = NewListing()
        for batch in first.listing.batches():
            made.append(batch.slice(leave))
        return made.finish()

    again = replace(first, listing=rewritten())
    assert unchanged(again, first)
    assert unchanged(replace(again, indexes=manifests.index_table([])), first), "index shards are not compared"
    assert not unchanged(replace(again, tombstones=second.tombstones), first)
    assert not unchanged(replace(again, descriptors=first.descriptors.slice(1)), first)
    assert not unchanged(replace(again, listing=rewritten(leave=1)), first)
    assert not unchanged(first, first), "a stored listing is no new one"
    assert not unchanged(again, again), "and a new one is not stored"


def test_a_copy_of_a_deleted_image_stays_known_as_long_as_it_is_listed(here: InMemory) -> None:
    def copies() -> list[str]:
        lists = load_lists(here.life.catalog, here.life.catalog.require_head())
        return [str(key) for key in copies_of(lists.deletions)["key"].to_pylist()]

    files = {key: f"img {key}" for key in KEYS}
    put_files(here, files)
    here.life.index()
    here.life.delete("03.jpg")
    files["97.jpg"] = "img 03.jpg"
    for more in ("98.jpg", "99.jpg"):
        # The first run meets the copy; the next one has nothing to do with it.
        files[more] = f"img {more}"
        put_files(here, files)
        here.life.index()
        assert copies() == ["97.jpg"]
        assert "97.jpg" not in here.life.live()
        summary = here.life.catalog.require_head().summary
        assert summary.seen == summary.images == len(files) - 2
    del files["97.jpg"]
    put_files(here, files)
    here.life.index()
    assert copies() == []


def test_index_shards_stay_as_they_are_until_no_file_of_theirs_is_live(here: InMemory) -> None:
    def shards() -> set[str]:
        lists = load_lists(here.life.catalog, here.life.catalog.require_head())
        return {shard.artifact.uri for shard in manifests.index_shards(lists.indexes)}

    files = {key: f"img {key}" for key in KEYS}
    put_files(here, files)
    here.life.index()
    first = shards()
    later = {f"5{n}.jpg": f"img 5{n}" for n in range(3)}
    put_files(here, {**files, **later})
    here.life.index()
    second = shards()
    assert first < second, "what came is in index shards of its own"
    put_files(here, {**dict(list(files.items())[1:]), **later})
    here.life.index()
    assert shards() == second, "an image that goes is a tombstone"
    put_files(here, later)
    here.life.index()
    assert shards() == second - first
