"""Garbage collection: it stops for a run that begins, and what has expired stays so."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from pipeline.core.storage import open_store
from pipeline.publish import manifests
from pipeline.publish.leases import SERVE, SWEEP, Lease, hold
from pipeline.publish.lists import load_lists
from pipeline.publish.marks import expired, mark_expired
from pipeline.stages.expire import DAY, Retention, plan_sweep, sweep_away
from tests.life import RECIPE, InMemory, in_memory

NOW = Retention(keep_seconds=0, grace_seconds=0)


@pytest.fixture
def here() -> Iterator[InMemory]:
    with in_memory() as made:
        for number in range(6):
            made.put(f"{number:02d}.jpg", f"image {number}")
        made.life.index()
        made.put("01.jpg", "changed")
        made.life.index()
        made.life.compact()
        yield made


def test_a_sweep_stops_when_a_run_begins(here: InMemory) -> None:
    """The run has put its lease after the sweep had decided: not one object more may go."""
    with hold(here.objects, Lease(writer="sweeper", operation=SWEEP), here.life.times) as held:
        sweep = plan_sweep(here.life.catalog, NOW, now=held.put(), held=held)
        assert len(sweep.objects) > 2
        here.objects.write("leases/run.json", b'{"operation":"index","writer":"run"}')
        assert list(sweep_away(here.objects, sweep, held)) == []
    assert all(here.objects.exists(entry.path) for entry in sweep.objects)
    here.objects.delete("leases/run.json")
    assert here.life.expire()["deleted"] >= len(sweep.objects)
    here.life.check()


def test_readers_and_other_sweeps_do_not_stop_a_sweep(here: InMemory) -> None:
    with hold(here.objects, Lease(writer="sweeper", operation=SWEEP), here.life.times) as held:
        sweep = plan_sweep(here.life.catalog, NOW, now=held.put(), held=held)
        here.objects.write("leases/page.json", b'{"operation":"serve","writer":"page","versions":[3]}')
        assert len(list(sweep_away(here.objects, sweep, held))) == len(sweep.objects)


def test_a_snapshot_that_is_leased_is_kept_and_bears_no_mark_afterwards(here: InMemory) -> None:
    with hold(here.objects, Lease(writer="page", operation=SERVE, versions=(1,)), here.life.times):
        told = here.life.expire()
        assert (told["kept"], told["expired"], told["busy"]) == ([1, 3], [2], [])
        assert expired(here.objects) == {2}
    assert here.life.expire()["kept"] == [3]
    assert expired(here.objects) == {1, 2}


@pytest.mark.parametrize("collected", [False, True])
def test_what_a_killed_sweep_only_marked_is_kept_while_it_is_leased(here: InMemory, collected: bool) -> None:
    catalog = here.life.catalog
    mark_expired(here.objects, 1)
    if collected:
        here.objects.delete(catalog.load(1).descriptors.uri)
    with hold(here.objects, Lease(writer="page", operation=SERVE, versions=(1,)), here.life.times):
        told = here.life.expire()
    assert (told["kept"], told["expired"]) == (([3], [1, 2]) if collected else ([1, 3], [2]))
    assert expired(here.objects) == set(told["expired"])


@pytest.mark.parametrize(("last", "kept"), [(0, [3]), (1, [3]), (2, [2, 3]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_the_latest_few_snapshots_are_kept_and_always_the_head(here: InMemory, last: int, kept: list[int]) -> None:
    retention = Retention(keep_last=last, keep_seconds=0, grace_seconds=0)
    sweep = plan_sweep(here.life.catalog, retention, now=here.clock())
    assert [*sweep.kept] == kept
    assert sorted((*sweep.kept, *sweep.given_up)) == [1, 2, 3]
    assert expired(here.objects) == set(), "without a lease nothing is written"


def test_records_of_what_is_kept_stay_and_those_of_what_goes_go_with_it(here: InMemory) -> None:
    """Without its record what is published would be made anew by the next run that wants it."""
    indexes = load_lists(here.life.catalog, here.life.catalog.require_head()).indexes
    kept = {*manifests.uris(indexes, "artifact"), *manifests.uris(indexes, "trained")}
    named = {
        entry.path: re.findall(r'"uri":"([^"]*)"', here.objects.read(entry.path).decode())
        for folder in ("indexes", "artifacts")
        for entry in here.objects.list(folder)
        if entry.path.endswith(".json")
    }
    wanted = {record for record, uris in named.items() if kept.issuperset(uris)}
    assert {record.split("/")[0] for record in wanted} == {"indexes", "artifacts"}
    assert set(named) - wanted
    here.life.expire()
    assert {record for record in named if here.objects.exists(record)} == wanted


def test_what_has_expired_does_not_come_back_by_a_longer_retention(here: InMemory) -> None:
    """A part of it may be deleted already: nobody may be promised the rest."""
    assert here.life.expire(keep=0, grace=7)["expired"] == [1, 2]
    assert expired(here.objects) == {1, 2}
    later = here.life.expire(keep=365, grace=7)
    assert (later["kept"], later["expired"]) == ([3], [1, 2])
    sweep = plan_sweep(here.life.catalog, Retention(keep_last=3, keep_seconds=365 * DAY), now=here.clock())
    assert (sweep.kept, sweep.given_up) == ((3,), (1, 2))


def test_a_young_record_keeps_the_old_data_that_it_names(here: InMemory) -> None:
    """A run that was killed may be repeated much later: what counts is how young the record is."""
    catalog = here.life.catalog
    here.put("09.jpg", "not published")
    with pytest.raises(KeyboardInterrupt), here.through(_KilledAtItsCommit):
        here.life.index()
    records = [e.path for e in here.objects.list("descriptors") if e.path.endswith(".json")]
    (record,) = [path for path in records if here.objects.stat(path).modified == max(_times(here, records))]
    here.clock.now += 30 * DAY
    here.objects.write(record, here.objects.read(record))
    before = set(here.objects.objects)
    sweep = plan_sweep(catalog, Retention(keep_seconds=0, grace_seconds=7 * DAY), now=here.clock())
    assert record not in {entry.path for entry in sweep.objects}
    assert not [e.path for e in sweep.objects if e.path.startswith(record.removesuffix(".json"))], (
        "its data stay with it"
    )
    assert set(here.objects.objects) == before
    report = here.life.index()
    assert report.images["indexed"] == 7
    here.life.check()


def _times(here: InMemory, names: list[str]) -> list[float]:
    return [here.objects.stat(name).modified for name in names]


class _KilledAtItsCommit:
    """The store of a run that is killed where it would commit; its lease is gone, as after a long time."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def put_if_absent(self, name: str, data: bytes) -> None:
        if name.startswith("snapshots/"):
            raise KeyboardInterrupt
        self.inner.put_if_absent(name, data)  # type: ignore[attr-defined]


def test_a_long_run_that_was_killed_keeps_its_oldest_shards_as_long_as_its_newest(here: InMemory) -> None:
    """The grace is that of the recipe's folder: ten days of work are not given up from their beginning."""
    before = {entry.path for entry in here.objects.list("descriptors")}
    here.put("08.jpg", "first day")
    with pytest.raises(KeyboardInterrupt), here.through(_KilledAtItsCommit):
        here.life.index()
    oldest = {entry.path for entry in here.objects.list("descriptors")} - before
    assert oldest
    here.clock.now += 10 * DAY
    here.put("09.jpg", "tenth day")
    with pytest.raises(KeyboardInterrupt), here.through(_KilledAtItsCommit):
        here.life.index()
    here.life.expire(grace=7)
    assert oldest <= set(here.objects.objects)
    here.clock.now += 8 * DAY
    here.life.expire(grace=7)
    assert not oldest & set(here.objects.objects), "its newest shard is old, too"
    here.life.index()
    here.life.check()


def test_what_was_published_and_changes_every_day_is_collected_all_the_same(here: InMemory) -> None:
    first = {entry.path for entry in here.objects.list("descriptors")}
    for day in range(12):
        here.clock.now += DAY
        here.put("01.jpg", f"day {day}")
        here.life.index()
        here.life.compact()
        here.life.expire(grace=7)
    left = {entry.path for entry in here.objects.list("descriptors")}
    assert first - left
    assert all(here.objects.stat(name).modified > here.clock.now - 8 * DAY for name in left - _reached(here))


def test_the_fit_of_an_unfinished_run_outlives_the_grace_of_its_own_record() -> None:
    with in_memory() as here:
        for number in range(12):
            here.put(f"{number:02d}.jpg", f"image {number}")
        here.life.index()
        whitened = f'{RECIPE}\n[whiten]\nmethod = "pca"\ndims = 4\n'
        open_store(here.life.recipe.removesuffix("/toy.toml")).write("toy.toml", whitened.encode())
        with pytest.raises(KeyboardInterrupt), here.through(_KilledAtItsCommit):
            here.life.index()
        fits = _fits(here)
        here.clock.now += 10 * DAY
        for number in range(12, 30):
            here.put(f"{number:02d}.jpg", f"image {number}")
        with pytest.raises(KeyboardInterrupt), here.through(_KilledAtItsCommit):
            here.life.index()
        here.life.expire(grace=7)
        assert _fits(here) == fits
        here.life.index()
        assert _fits(here) == fits
        here.life.check()


def _fits(here: InMemory) -> set[str]:
    return {entry.path for entry in here.objects.list("artifacts") if entry.path.endswith("whitening.safetensors")}


def _reached(here: InMemory) -> set[str]:
    lists = load_lists(here.life.catalog, here.life.catalog.require_head())
    files = list(manifests.descriptor_files(lists.descriptors))
    names = {file.artifact.uri for file in files} | {file.rejects.uri for file in files if file.rejects is not None}
    return names | {here.life.catalog.record_name(_recipe_id(here), file.shard_id) for file in files}


def _recipe_id(here: InMemory) -> str:
    return here.life.catalog.require_head().recipe.descriptor_id
