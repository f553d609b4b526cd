"""Leases: a holder that still beats is never taken for dead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from pipeline.core.errors import SightlineError, StoreError
from pipeline.publish.leases import (
    SERVE,
    SWEEP,
    Held,
    Lease,
    LeaseTimes,
    hold,
    live_leases,
    outwait_sweeps,
    read_leases,
)
from tests.faulty import Watched
from tests.life import InMemory, in_memory

TIMES = LeaseTimes(beat=1000.0, silent=900.0, watch=0.0, poll=0.001)


def test_a_suspect_that_beats_while_it_is_watched_is_alive() -> None:
    with in_memory() as here:
        here.objects.write("leases/slow.json", b'{"operation":"index","writer":"slow","beat":1}')
        here.objects.write("leases/dead.json", b'{"operation":"index","writer":"dead","beat":1}')
        here.clock.now += 10_000
        looks: list[str] = []

        def beating(kind: str, name: str, carry_out: Any) -> Any:
            if kind == "list":
                looks.append(name)
                if len(looks) == 2:
                    here.objects.write("leases/slow.json", b'{"operation":"index","writer":"slow","beat":2}')
            return carry_out()

        store = Watched(here.objects, beating)
        assert [lease.writer for lease in live_leases(store, now=here.clock(), times=TIMES)] == ["slow"]
        assert [(lease.writer, lease.beat) for lease, _ in read_leases(here.objects)] == [("slow", 2)]


def test_a_lease_is_there_while_its_block_runs_and_only_then() -> None:
    with in_memory() as here:
        with hold(here.objects, Lease(writer="me", operation="index"), TIMES) as held:
            assert [lease.writer for lease, _ in read_leases(here.objects)] == ["me"]
            held.check()
        assert read_leases(here.objects) == []


def test_a_lease_that_was_removed_meanwhile_is_not_renewed_by_a_check() -> None:
    with in_memory() as here, hold(here.objects, Lease(writer="me", operation="index"), TIMES) as held:
        here.objects.delete(held.lease.name)
        with pytest.raises(SightlineError, match="nothing was published"):
            held.check()
        assert read_leases(here.objects) == []


class Looks:
    """A store that does something at the n-th look at the leases."""

    def __init__(self, here: InMemory, does: dict[int, Callable[[], None]]) -> None:
        self.does, self.count = does, 0
        self.store = Watched(here.objects, self._hook)

    def _hook(self, kind: str, name: str, carry_out: Any) -> Any:
        if kind == "list" and name == "leases":
            self.count += 1
            self.does.get(self.count, lambda: None)()
        return carry_out()


def lease(writer: str, beat: int = 1, operation: str = "index") -> bytes:
    return f'{{"operation":"{operation}","writer":"{writer}","beat":{beat}}}'.encode()


@pytest.fixture
def here() -> Iterator[InMemory]:
    with in_memory() as made:
        yield made


def test_who_has_beaten_within_the_limit_is_alive_without_being_watched(here: InMemory) -> None:
    here.objects.write("leases/a.json", lease("a"))
    entry = here.objects.stat("leases/a.json")
    times = replace(TIMES, watch=1e9)  # whoever watches here never returns
    for age in (0.0, 899.0, 900.0):
        assert [x.writer for x in live_leases(here.objects, now=entry.modified + age, times=times)] == ["a"]
    assert live_leases(here.objects, now=entry.modified + 901.0, times=TIMES) == []
    assert not here.objects.objects, "and the dead lease is removed"


def test_who_comes_while_suspects_are_watched_is_alive(here: InMemory) -> None:
    here.objects.write("leases/dead.json", lease("dead"))
    here.clock.now += 10_000
    looks = Looks(here, {2: lambda: here.objects.write("leases/new.json", lease("new"))})
    assert [x.writer for x in live_leases(looks.store, now=here.clock(), times=TIMES)] == ["new"]
    assert [x.writer for x, _ in read_leases(here.objects)] == ["new"]


def test_a_lease_that_cannot_be_understood_is_work_and_one_that_vanishes_is_none(here: InMemory) -> None:
    here.objects.write("leases/odd.json", b"{")
    here.objects.write("leases/gone.json", lease("gone"))

    def vanishing(kind: str, name: str, carry_out: Any) -> Any:
        if kind == "read" and "gone" in name:
            here.objects.delete(name)
        return carry_out()

    found = read_leases(Watched(here.objects, vanishing))
    assert [(x.writer, x.operation) for x, _ in found] == [("odd", "unknown")]
    assert found[0][1] == here.objects.stat("leases/odd.json").modified


@pytest.mark.parametrize("operation", ["index", "compact", "delete"])
def test_work_begins_when_the_sweep_has_ended(here: InMemory, operation: str) -> None:
    here.objects.write("leases/s.json", lease("s", operation=SWEEP))
    begun: list[int] = []
    looks = Looks(
        here,
        {
            3: lambda: here.objects.write("leases/s.json", lease("s", 2, SWEEP)),
            6: lambda: here.objects.delete("leases/s.json"),
        },
    )
    with hold(looks.store, Lease(writer="me", operation=operation), replace(TIMES, watch=1e9)):
        begun.append(looks.count)
    assert begun == [6]


@pytest.mark.parametrize("operation", [SWEEP, SERVE])
def test_sweeps_and_readers_wait_for_nobody(here: InMemory, operation: str) -> None:
    here.objects.write("leases/s.json", lease("s", operation=SWEEP))
    looks = Looks(here, {})
    with hold(looks.store, Lease(writer="me", operation=operation), replace(TIMES, watch=1e9)):
        assert looks.count == 1, "the look of writing its own lease"


def test_a_sweep_that_does_not_stir_is_dead_and_one_that_stirs_is_waited_for(here: InMemory) -> None:
    here.objects.write("leases/s.json", lease("s", operation=SWEEP))
    beats = {n: partial(here.objects.write, "leases/s.json", lease("s", n, SWEEP)) for n in range(2, 7)}
    looks = Looks(here, beats)  # type: ignore[arg-type]
    outwait_sweeps(looks.store, replace(TIMES, watch=0.0, poll=0.002))
    # It was last seen to stir at look 6; the next look after some time takes it for dead, and the one after finds none.
    assert looks.count == 8
    assert not here.objects.objects


def test_other_work_is_not_waited_for(here: InMemory) -> None:
    here.objects.write("leases/r.json", lease("r"))
    outwait_sweeps(here.objects, replace(TIMES, watch=1e9))


def test_a_lease_is_renewed_again_and_again_with_other_content_and_later_times(here: InMemory) -> None:
    with hold(here.objects, Lease(writer="me", operation="index"), TIMES) as held:
        first = held.put()
        assert first == here.objects.stat("leases/me.json").modified
        assert held.lease.beat == 2
        assert held.put() > first
        held.check()
        assert read_leases(here.objects)[0][0].beat == held.lease.beat == 4, "a beat is seen by its content alone"


def test_the_thread_of_a_lease_renews_it_and_lets_it_be_when_it_was_taken_away(here: InMemory) -> None:
    looked: list[bool] = []

    def hook(kind: str, name: str, carry_out: Any) -> Any:
        result = carry_out()
        if kind == "exists":
            looked.append(result)
        return result

    with hold(Watched(here.objects, hook), Lease(writer="me", operation="index"), replace(TIMES, beat=0.002)) as held:
        wait_for(lambda: held.lease.beat > 3)
        while here.objects.exists(held.lease.name):  # a beat may be just under way
            here.objects.delete(held.lease.name)
            enough = looked.count(False) + 3
            wait_for(lambda: looked.count(False) >= enough or here.objects.exists(held.lease.name))  # noqa: B023
        assert looked.count(False) > 2
    assert read_leases(here.objects) == []


@pytest.mark.parametrize("error", [StoreError("full"), ValueError("unforeseen")])
def test_a_beat_that_fails_is_tried_again_at_the_next_one(
    here: InMemory, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    failed: list[str] = []

    def failing(kind: str, name: str, carry_out: Any) -> Any:
        if kind == "write" and name in here.objects.objects and len(failed) < 3:
            failed.append(name)
            raise error
        return carry_out()

    with hold(
        Watched(here.objects, failing), Lease(writer="me", operation="index"), replace(TIMES, beat=0.002)
    ) as held:
        wait_for(lambda: len(failed) == 3 and read_leases(here.objects)[0][0].beat > 1)
        assert held.lease.beat > 1
    assert bool(caplog.records) == isinstance(error, ValueError)


def test_a_lease_that_was_let_go_is_never_written_again(here: InMemory) -> None:
    with hold(here.objects, Lease(writer="me", operation="serve"), TIMES) as held:
        pass
    for write in (held.put, lambda: held.pin([1])):
        with pytest.raises(StoreError, match="has been let go"):
            write()
    assert not here.objects.objects


def test_a_lease_that_is_taken_away_as_soon_as_it_is_written_is_an_error(here: InMemory) -> None:
    with hold(here.objects, Lease(writer="me", operation="index"), TIMES) as held:

        def takes(kind: str, name: str, carry_out: Any) -> Any:
            carry_out()
            here.objects.delete("leases/me.json")

        held.store = Watched(here.objects, lambda k, n, c: takes(k, n, c) if k == "write" else c())
        with pytest.raises(StoreError, match="taken away"):
            held.put()


def test_what_a_lease_names_is_written_when_it_changes_and_stays_through_beats(here: InMemory) -> None:
    def named() -> tuple[int, ...]:
        return read_leases(here.objects)[0][0].versions

    with hold(here.objects, Lease(writer="me", operation=SERVE), TIMES) as held:
        assert held.pin([3, 1, 3]) is False
        assert named() == (1, 3)
        beat = held.lease.beat
        assert held.pin([1, 3]) is False
        assert held.lease.beat == beat, "nothing is written where nothing changes"
        held.put()
        assert named() == (1, 3)
        assert held.pin([]) is False
        assert named() == ()
        here.objects.delete("leases/me.json")
        assert held.pin([]) is True, "it had been taken away, and is there again"
        assert named() == ()


def test_after_a_write_that_may_have_failed_the_names_are_written_again(here: InMemory) -> None:
    fails = [True]

    def failing(kind: str, name: str, carry_out: Any) -> Any:
        if kind == "write" and len(fails) > 1:
            fails.pop()
            raise StoreError("lost")
        return carry_out()

    with hold(Watched(here.objects, failing), Lease(writer="me", operation=SERVE), TIMES) as held:
        held.pin([1])
        fails.append(True)
        with pytest.raises(StoreError, match="lost"):
            held.pin([2])
        held.pin([1])
        assert read_leases(here.objects)[0][0].versions == (1,)
        held.pin([2])
        assert read_leases(here.objects)[0][0].versions == (2,)


def test_a_lease_is_fresh_for_half_the_time_after_which_it_could_be_held_for_dead(here: InMemory) -> None:
    for times, fresh in (
        (replace(TIMES, beat=1000.0, watch=0.0), True),
        (replace(TIMES, beat=0.0, watch=1000.0), True),
        (replace(TIMES, beat=0.0, watch=0.0), False),
    ):
        held = Held(here.objects, Lease(writer="me", operation=SWEEP), times)
        assert not held.fresh, "it was never written"
        held.put()
        assert held.fresh is fresh
    for times in (replace(TIMES, beat=0.0, watch=0.02), replace(TIMES, beat=0.01, watch=0.0)):
        held = Held(here.objects, Lease(writer="me", operation=SWEEP), times)
        held.put()
        threading.Event().wait(0.011)  # however slow this machine is, more than half of the time has gone by
        assert not held.fresh
    held.release()


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once a condition holds; the time limit of tests ends what never does."""
    while not condition():
        threading.Event().wait(0.001)


def test_a_holder_that_lives_beats_while_it_is_watched() -> None:
    times = LeaseTimes()
    assert times == LeaseTimes(beat=20.0, silent=900.0, watch=60.0, poll=1.0)
    assert times.watch > 2 * times.beat
    assert times.silent > times.watch
