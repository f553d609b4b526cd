"""I3, I8: every operation is stopped at every storage operation, in four ways, and then carried out again.

In process, on a store in memory, and in samples on a folder and on a service: a stop is a BaseException that nothing
handles. Afterwards the invariants hold, the repeated operation ends where an undisturbed one does, and nothing is left
that a sweep does not collect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.core.errors import SightlineError
from tests.builders import tar_bytes
from tests.faulty import Mode, StopAt, Stopped, Watched, modes
from tests.life import Collection, InMemory, Life, digests, in_memory, some
from tests.places import PLACES, collection

BASE = {f"{n:02d}.jpg": f"image {n}" for n in range(8)}


def first(life: Life) -> None:
    life.index()


def grow(life: Life) -> None:
    life.index()


def moved(life: Life) -> None:
    """A deleted image comes again under another name, beside a copy of one that is not deleted."""
    life.index()


def retrain(life: Life) -> None:
    life.index(retrain="always")


def delete(life: Life) -> None:
    life.delete("01.jpg", "05.jpg")


def restore(life: Life) -> None:
    life.restore("02.jpg")


def compact(life: Life) -> None:
    life.compact()


def expire(life: Life) -> None:
    life.expire()


def rollback(life: Life) -> None:
    life.rollback(2)


def tag(life: Life) -> None:
    life.tag("kept", 2)


OPERATIONS: tuple[Callable[[Life], Any], ...] = (
    *(first, grow, moved, retrain, delete, restore, compact, expire, rollback, tag),
)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[Collection]:
    with collection(request.param, request) as here:
        yield here


@pytest.fixture
def prepared(place: Collection, request: pytest.FixtureRequest) -> tuple[Collection, Callable[[Life], Any]]:
    """A collection with a past: three index runs, a removal, a change, a deletion; and one operation to be stopped."""
    operation, here = request.param, place
    for key, content in BASE.items():
        here.put(key, content)
    here.put("bad.jpg", "bad image")
    if operation is not first:
        here.life.index()
        here.put("10.jpg", "image 10")
        here.images.delete("03.jpg")
        here.life.index()
        here.life.delete("02.jpg")
        here.put("00.jpg", "image 0, changed")
        here.life.index()
        here.later(10_000)
    if operation in (grow, compact):
        here.put("11.jpg", "image 11")
        here.put("04.jpg", "image 4, changed")
        here.images.delete("06.jpg")
    if operation is moved:
        here.images.delete("02.jpg")
        here.put("99.jpg", "image 2")
        here.put("98.jpg", "image 4")
    if operation is compact:
        here.life.index()
    return here, operation


def stopped(here: Collection, operation: Callable[[Life], Any], at: int, mode: Mode) -> StopAt:
    """Carry an operation out up to a storage operation; return what was stopped."""
    hook = StopAt(at, mode)
    with here.through(lambda store: Watched(store, hook)):
        try:
            operation(here.life)
        except Stopped:
            pass
        except SightlineError:
            assert mode == "error", "only an error that the store reported may be reported"
    return hook


def settled(here: Collection, operation: Callable[[Life], Any], *, thorough: bool) -> dict[str, str]:
    """Carry an operation out undisturbed, as the rerun after a crash; return what is live."""
    here.later(10_000)
    operation(here.life)
    here.life.check(thorough=thorough)
    return here.life.live()


@pytest.mark.parametrize("prepared", OPERATIONS, indirect=True, ids=lambda operation: operation.__name__)
def test_i3_i8_an_operation_stopped_anywhere_is_completed_by_its_repetition(
    prepared: tuple[Collection, Callable[[Life], Any]],
    record_property: Callable[[str, object], None],
) -> None:
    here, operation = prepared
    state = here.keep()
    before = here.life.live() if operation is not first else {}
    operations = stopped(here, operation, -1, "before").operations
    expected = here.life.live()
    here.go_back(state)
    assert settled(here, operation, thorough=True) == expected
    cases = 0
    everything = [(at, mode) for at, at_work in enumerate(operations) for mode in modes(at_work)]
    assert len(everything) > 2 * len(operations)
    for at, mode in here.some(everything, 5):
        here.go_back(state)
        stopped(here, operation, at, mode)
        try:
            if here.life.catalog.versions():
                here.life.check(thorough=False)
                # After an error that is no stop, a run goes on: it sets the shard aside and publishes the rest.
                assert mode == "error" or here.life.live() in (before, expected), "I1: all or nothing"
            assert settled(here, operation, thorough=mode == "torn") == expected
        except (AssertionError, SightlineError) as error:
            what = operations[at].split()[0]
            raise AssertionError(f"{operation.__name__} stopped {mode} operation {at} ({what}): {error}") from error
        cases += 1
    record_property("cases", cases)


def test_i8_after_a_sweep_that_was_stopped_what_it_collected_can_be_indexed_again(place: Collection) -> None:
    here = place
    for key, content in BASE.items():
        here.put(key, content)
    here.life.index()
    for key in list(BASE)[:3]:
        here.images.delete(key)
    here.life.index()
    state = here.keep()
    operations = stopped(here, expire, -1, "before").operations
    assert [at for at in operations if at.startswith("delete descriptors/")], "the sweep collects a whole shard"
    everything = [(at, mode) for at, at_work in enumerate(operations) for mode in modes(at_work)]
    for at, mode in here.some(everything, 3):
        here.go_back(state)
        stopped(here, expire, at, mode)
        for key in list(BASE)[:3]:
            here.put(key, BASE[key])
        here.later(10_000)
        here.life.index()
        here.life.check()
        assert here.life.live() == digests(BASE), f"{mode} {operations[at]}"


def test_the_model_of_the_base_collection_is_what_is_live(place: Collection) -> None:
    here = place
    for key, content in BASE.items():
        here.put(key, content)
    here.life.index()
    here.life.check()
    assert here.life.live() == digests(BASE)


def meet(life: Life) -> None:
    """A corrupt archive comes, beside a sound one."""
    life.index()


def meet_alone(life: Life) -> None:
    """A corrupt archive comes alone: nothing is published."""
    life.index()


def try_again(life: Life) -> None:
    """What is remembered is withdrawn, and remembered again."""
    life.index(retry_rejected="")


def collect(life: Life) -> None:
    """What is remembered of an archive that was mended is collected."""
    life.expire()


def with_archives(operation: Callable[[Life], Any], here: InMemory) -> None:
    """Prepare a collection of archives for an operation."""
    here.life.kind = "tar"

    def archive(name: str, size: int | None = None) -> None:
        here.images.write(name, tar_bytes({"x.jpg": f"image {name}".encode()})[:size])

    archive("a.tar")
    archive("old.tar", 700)
    here.life.index()
    if operation is collect:
        archive("old.tar")
        here.life.index()
    if operation in (meet, meet_alone):
        archive("new.tar", 800)
    if operation is meet:
        archive("z.tar")
    here.clock.now += 10_000


@pytest.mark.parametrize("operation", [meet, meet_alone, try_again, collect])
def test_i3_what_is_remembered_of_corrupt_archives_survives_a_stop_anywhere(operation: Callable[[Life], Any]) -> None:
    with in_memory() as here:
        with_archives(operation, here)
        state, before = here.keep(), here.life.live()
        operations = stopped(here, operation, -1, "before").operations
        assert any(" failures/" in at_work for at_work in operations)
        expected, failing = here.life.live(), _failing(here)
        everything = [(at, mode) for at, at_work in enumerate(operations) for mode in modes(at_work)]
        for at, mode in some(everything, 7):
            here.go_back(state)
            stopped(here, operation, at, mode)
            here.life.check(thorough=False)
            assert mode == "error" or here.life.live() in (before, expected)
            assert settled(here, operation, thorough=False) == expected, f"{mode} {operations[at]}"
            assert _failing(here) == failing, f"{mode} {operations[at]}"
            objects = dict(here.objects.objects)
            assert here.life.index().published is False
            assert dict(here.objects.objects) == objects, "a run with nothing to do writes nothing"


def _failing(here: InMemory) -> set[str]:
    """The paths of the archives that are remembered."""
    return {json.loads(here.objects.read(entry.path))["path"] for entry in here.objects.list("failures")}
