"""What every runner promises; the Ray runner's own promises are in test_ray.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from pipeline.core.errors import UserError
from pipeline.run.base import depth_of
from pipeline.run.inline import InlineRunner


@dataclass(frozen=True)
class Halve:
    """Halves even numbers, refuses odd ones; cannot be opened when broken."""

    broken: bool = False
    uses_gpu = False

    def open(self, threads: int) -> Callable[[int], int]:
        if self.broken:
            raise UserError("task", "is broken", "mend it")
        return self.halve

    @staticmethod
    def halve(number: int) -> int:
        if number % 2:
            raise ValueError(f"{number} is\nodd")
        return number // 2


def test_every_item_has_one_outcome_and_errors_are_values() -> None:
    outcomes = list(InlineRunner().map(Halve(), [2, 3, 4]))
    assert [(o.item, o.value) for o in outcomes] == [(2, 1), (3, None), (4, 2)]
    assert outcomes[1].error == "ValueError: 3 is odd"


def test_a_task_that_cannot_be_opened_ends_the_run() -> None:
    with pytest.raises(UserError, match="broken"):
        list(InlineRunner().map(Halve(broken=True), [1]))


def test_a_task_without_items_is_never_opened() -> None:
    assert list(InlineRunner().map(Halve(broken=True), [])) == []


class Pair:
    """A function that returns only when two calls are under way, or the run is stopped."""

    def __init__(self) -> None:
        self.met, self.stopped = threading.Barrier(2), threading.Event()

    def __call__(self, number: int) -> int:
        if number == 99:
            assert self.stopped.wait(30), "a stopped run stops what is under way"
            raise InterruptedError
        self.met.wait(30)
        return number

    def stop(self) -> None:
        self.stopped.set()


@dataclass(frozen=True)
class Two:
    """Two items at a time."""

    function: Pair = field(default_factory=Pair)
    uses_gpu = False
    depth = 2

    def open(self, threads: int) -> Pair:
        return self.function


def test_a_task_of_depth_two_is_given_two_items_at_a_time_and_outcomes_keep_their_order() -> None:
    assert [o.value for o in InlineRunner().map(Two(), range(6))] == list(range(6))


def test_what_a_task_opens_knows_better_how_many_items_it_takes_at_a_time() -> None:
    function = Pair()
    assert depth_of(Two(), function) == 2
    function.depth = 5  # type: ignore[attr-defined]
    assert (depth_of(Two(), function), depth_of(Two(), len)) == (5, 2)


def test_what_is_under_way_is_stopped_with_the_run() -> None:
    task = Two()
    outcomes = InlineRunner().map(task, [0, 1, 99, 99])
    assert [next(outcomes).value, next(outcomes).value] == [0, 1]
    with pytest.raises(KeyboardInterrupt):
        outcomes.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert task.function.stopped.is_set()
