"""I4, I6, I8, I15: two operations at once, in all 70 orders of their four phases, for every pair that can meet.

On a store in memory, and in some orders on a real folder and a real service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from pipeline.core import memory
from pipeline.core.errors import ConflictError
from pipeline.core.memory import MemoryStore
from pipeline.publish.leases import LeaseTimes
from pipeline.search.engine import SearchIndex, SearchOptions
from tests.builders import tar_bytes
from tests.life import Collection, InMemory, Life, in_memory, some
from tests.places import PLACES, collection
from tests.steps import Transaction, carry_out

ORDERS = ["".join("A" if place in chosen else "B" for place in range(8)) for chosen in combinations(range(8), 4)]
Operation = Callable[[Collection, Life], Any]


def append_a(here: Collection, life: Life) -> Any:
    here.put("a.jpg", "image a")
    return life.index()


def append_b(here: Collection, life: Life) -> Any:
    here.put("b.jpg", "image b")
    return life.index()


def delete_1(_: Collection, life: Life) -> Any:
    return life.delete("01.jpg")


def delete_1_and_2(_: Collection, life: Life) -> Any:
    return life.delete("01.jpg", "02.jpg")


def compact(_: Collection, life: Life) -> Any:
    return life.compact()


def restore_4(_: Collection, life: Life) -> Any:
    return life.restore("04.jpg")


def retrain(_: Collection, life: Life) -> Any:
    return life.index(retrain="always")


def sweep(_: Collection, life: Life) -> Any:
    return life.expire()


def rollback(_: Collection, life: Life) -> Any:
    return life.rollback(1)


def read(_: Collection, life: Life) -> Any:
    with SearchIndex.open(life.root) as index:
        hits = index.search(np.ones((1, index.dim), np.float32), SearchOptions(k=100, index="ivfpq"))[0]
        assert len(hits) == index.images
        return index.snapshot.version, sorted(hit.key for hit in hits)


PAIRS: dict[str, tuple[Operation, Operation]] = {
    "append/append": (append_a, append_b),
    "append/delete": (append_a, delete_1),
    "append/compact": (append_a, compact),
    "delete/delete": (delete_1, delete_1_and_2),
    "delete/compact": (delete_1, compact),
    "compact/compact": (compact, compact),
    "restore/append": (restore_4, append_b),
    "retrain/append": (retrain, append_b),
    "publish/sweep": (append_a, sweep),
    "publish/rollback": (append_a, rollback),
    "compact/sweep": (compact, sweep),
    "sweep/sweep": (sweep, sweep),
    "open/sweep": (read, sweep),
    "open/publish": (read, append_a),
}


@pytest.fixture(params=PLACES)
def here(request: pytest.FixtureRequest) -> Iterator[Collection]:
    with collection(request.param, request) as made:
        for number in range(5):
            made.put(f"{number:02d}.jpg", f"image {number}")
        # Nothing here is ever held for dead: an operation that waits, waits for the other one.
        made.life.times = LeaseTimes(beat=1000.0, silent=1e9, watch=1e9, poll=0.001)
        made.life.index()
        made.put("03.jpg", "image 3, changed")
        made.life.index()
        if request.param != "ceph":
            made.later(10_000)
        yield made


def transaction(here: Collection, letter: str, operation: Operation) -> Transaction:
    """An operation with a view of the root of its own."""
    life = replace(here.life, root=f"memory://{here.name}-root-{letter}")

    def run() -> Any:
        return operation(here, life)

    run.reads_only = operation is read  # type: ignore[attr-defined]
    made = Transaction(run)
    memory.register(f"{here.name}-root-{letter}", made.wrap(here.objects))
    return made


def expected(here: Collection, operations: tuple[Operation, Operation], both: dict[str, Transaction]) -> set[str]:
    """The keys that must be live at the end, from the operations that say they succeeded."""
    keys = {f"{number:02d}.jpg" for number in range(5)}
    keys |= {"a.jpg"} if append_a in operations and both["A"].error is None else set()
    keys |= {"b.jpg"} if append_b in operations else set()
    keys -= {"01.jpg"} if delete_1 in operations else set()
    keys -= {"02.jpg"} if delete_1_and_2 in operations else set()
    return keys


def rename_1(here: Collection, life: Life) -> Any:
    here.put("99.jpg", "image 1")
    here.images.delete("01.jpg")
    return life.index()


def test_i6_an_image_that_is_deleted_while_it_is_renamed_is_deleted_or_was_no_longer_known(here: Collection) -> None:
    state = here.keep()
    unknown = 0
    for order in here.some(ORDERS, 4):
        here.go_back(state)
        both = {"A": transaction(here, "A", rename_1), "B": transaction(here, "B", delete_1)}
        carry_out(order, both)
        here.life.check(thorough=order == ORDERS[4])
        assert (both["A"].error, both["B"].error) == (None, None)
        missed = both["B"].result["unknown"] == ["01.jpg"]
        unknown += missed
        expected = {"00.jpg", "02.jpg", "03.jpg", "04.jpg"} | ({"99.jpg"} if missed else set())
        assert set(here.life.live()) == expected, f"in order {order}"
        here.life.index()
        assert set(here.life.live()) == expected, f"after order {order} and another run"
    assert here.every > 1 or 0 < unknown < len(here.some(ORDERS, 4)), "both happen"


@pytest.mark.parametrize("pair", PAIRS)
def test_i4_i6_i8_operations_in_every_order(here: Collection, pair: str) -> None:
    operations = PAIRS[pair]
    if restore_4 in operations:
        here.life.delete("04.jpg")
    state = here.keep()
    conflicts = 0
    for order in here.some(ORDERS, 4):
        here.go_back(state)
        both = {
            letter: transaction(here, letter, operation) for letter, operation in zip("AB", operations, strict=True)
        }
        letters = dict(zip("AB", operations, strict=True))
        try:
            carry_out(order, both)
            here.life.check(thorough=order == ORDERS[4])
            live = set(here.life.live())
            for letter, made in both.items():
                if made.error is not None:
                    assert isinstance(made.error, ConflictError), made.error
                    assert letters[letter] in (rollback, append_a), "only these may have to give up"
                    assert pair == "publish/rollback"
                    conflicts += 1
                elif letters[letter] is read:
                    version, keys = made.result
                    assert keys == sorted(here.life.live(version)), "I1: what is read is one snapshot"
            if restore_4 in operations:
                # Whether the other run already brings it back, or the next one, is a matter of order.
                assert live | {"04.jpg"} == expected(here, operations, both)
                here.life.index()
                live = set(here.life.live())
            if pair != "publish/rollback":
                assert live == expected(here, operations, both)
            elif both["A"].error is None:
                # The rollback was undone by nobody, and undid nothing that was published after it was begun.
                last = here.life.catalog.require_head()
                assert ("a.jpg" in live) == (last.operation == "index")
            assert not list(here.objects.list("leases")), "everybody let go"
        except AssertionError as error:
            raise AssertionError(f"{pair} in order {order}: {error}") from error
    assert (conflicts > 0) == (pair == "publish/rollback") or (here.every > 1 and not conflicts)


def run(_: Collection, life: Life) -> Any:
    return life.index()


def try_again(_: Collection, life: Life) -> Any:
    return life.index(retry_rejected="")


@pytest.mark.parametrize("other", [run, try_again, sweep, compact])
def test_i4_i8_runs_that_meet_corrupt_archives_beside_others(other: Operation) -> None:
    """old.tar is remembered, mended.tar was; new.tar comes. Whatever is remembered, no run reads it for nothing."""
    with in_memory() as here:
        _corrupt_beside(here, other)


def _corrupt_beside(here: InMemory, other: Operation) -> None:
    times = LeaseTimes(beat=1000.0, silent=1e9, watch=1e9, poll=0.001)
    life = here.life = replace(here.life, kind="tar", root=f"memory://{here.name}-tars", times=times)
    objects = MemoryStore(f"{here.name}-tars", here.clock)
    memory.register(f"{here.name}-tars", objects)
    here.images.objects.clear()
    here.objects = objects
    for name, size in (("a", None), ("old", 700), ("mended", 700)):
        here.images.write(f"{name}.tar", tar_bytes({"x.jpg": f"image {name}".encode()})[:size])
    life.index()
    here.images.write("mended.tar", tar_bytes({"x.jpg": b"image mended"}))
    life.index()
    here.images.write("new.tar", tar_bytes({"x.jpg": b"image new"})[:800])
    here.images.write("z.tar", tar_bytes({"x.jpg": b"image z"}))
    here.clock.now += 10_000
    state = here.keep()
    for order in some(ORDERS, 4):
        here.go_back(state)
        both = {"A": transaction(here, "A", run), "B": transaction(here, "B", other)}
        carry_out(order, both)
        assert (both["A"].error, both["B"].error) == (None, None), f"in order {order}"
        life.check(thorough=order == ORDERS[4])
        assert set(life.live()) == {"a.tar/x.jpg", "mended.tar/x.jpg", "z.tar/x.jpg"}, f"in order {order}"
        report = life.index()
        assert (report.published, [failure.path for failure in report.failures]) == (False, ["new.tar", "old.tar"])
        assert not list(objects.list("leases")), "everybody let go"
    memory.register(f"{here.name}-tars", None)
