"""What every runner promises; the Ray runner's own promises are in test_ray.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from jobs.runners import RunnerOptions, open_runner
from pipeline.core.errors import SightlineError, UserError
from pipeline.core.resources import Resources
from pipeline.core.threads import usable_cores
from pipeline.core.types import TimeLimit
from pipeline.run.base import depth_of
from pipeline.run.inline import InlineRunner


@dataclass(frozen=True)
class Halve:
    """Halves even numbers, refuses odd ones; cannot be opened when broken."""

    broken: bool = False
    resources = Resources()

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
    resources = Resources(depth=2)

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


@dataclass(frozen=True)
class Late:
    """Items of a number of their own take so many seconds; `seconds` is the limit of each."""

    seconds: float
    depth: int = 1
    never: threading.Event = field(default_factory=threading.Event)

    @property
    def resources(self) -> Resources:
        return Resources(depth=self.depth)

    def limit(self, item: float) -> TimeLimit:
        return TimeLimit(seconds=self.seconds, option="--shard-timeout")

    def open(self, threads: int) -> Callable[[float], float]:
        def call(item: float) -> float:
            self.never.wait(item)
            return item

        return call


@pytest.mark.parametrize("depth", [1, 2])
def test_an_item_that_does_not_end_ends_an_inline_run_with_one_line(depth: int) -> None:
    task = Late(0.2, depth)
    outcomes = InlineRunner().map(task, [0.0, 600.0, 0.0])
    assert next(outcomes).value == 0.0
    with pytest.raises(SightlineError, match=r"^600\.0: took longer than 0\.2 s \(--shard-timeout\) and"):
        list(outcomes)
    task.never.set()


def test_an_item_may_wait_for_the_one_before_it_and_without_a_limit_for_ever() -> None:
    assert [o.value for o in InlineRunner().map(Late(0.5, 2), [0.6, 0.6])] == [0.6, 0.6]
    assert [o.value for o in InlineRunner().map(Late(0.0), [0.3])] == [0.3]


@dataclass(frozen=True)
class Threads:
    """Says how many it may use."""

    resources = Resources()

    def open(self, threads: int) -> Callable[[int], int]:
        return lambda _: threads


def test_a_task_has_the_cores_that_its_process_may_use_or_as_many_threads_as_are_stated() -> None:
    assert [outcome.value for outcome in InlineRunner().map(Threads(), [1])] == [usable_cores()]
    (outcome,) = open_runner(RunnerOptions(cpus_per_worker=5)).map(Threads(), [1])
    assert outcome.value == 5


@pytest.mark.parametrize(
    ("stated", "device", "gpus"),
    [(None, "auto", None), (None, "cuda", None), (None, "cpu", 0.0), (1.0, "cpu", 1.0), (0.0, "auto", 0.0)],
)
def test_a_run_that_is_to_use_the_cpu_holds_no_gpu_unless_it_is_told_to(
    stated: float | None, device: str, gpus: float | None
) -> None:
    assert RunnerOptions(gpus_per_worker=stated).on(device).gpus_per_worker == gpus
