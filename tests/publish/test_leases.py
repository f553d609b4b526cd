"""Leases: a holder that still beats is never taken for dead."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.core.errors import SightlineError
from pipeline.publish.leases import Lease, LeaseTimes, hold, live_leases, read_leases
from tests.faulty import Watched
from tests.life import in_memory

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
