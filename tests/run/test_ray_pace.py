"""What the Ray runner decides about calls that take long; the workers are none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from pipeline.core.resources import Resources
from pipeline.core.types import TimeLimit

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


@dataclass(frozen=True)
class Item:
    """An item of so many bytes."""

    number: int
    bytes: int = 0


@dataclass(frozen=True)
class Limited:
    """A task with a limit of so many seconds."""

    seconds: float
    resources = Resources()

    def limit(self, item: Any) -> TimeLimit:
        return TimeLimit(seconds=self.seconds)

    def open(self, threads: int) -> Any:
        raise AssertionError("nobody works")


def pace(done: Iterable[tuple[float, int]], **speculation: float) -> Any:
    from pipeline.run.ray.stragglers import Pace, Speculation

    made = Pace(Speculation(**speculation))  # type: ignore[arg-type]
    for number, (seconds, size) in enumerate(done):
        made.note(Item(number, size), seconds)
    return made


def member() -> Any:
    from pipeline.run.ray.crew import Member
    from pipeline.run.ray.shapes import Shape

    return Member(actor=None, shape=Shape(cpus=1))


def under_way(*rows: tuple[Any, Any, float]) -> dict[Any, Any]:
    """Calls by (worker, ticket, since)."""
    from pipeline.run.ray.crew import Call

    return {
        number: Call(member=worker, ticket=ticket, attempts=1, since=since)
        for number, (worker, ticket, since) in enumerate(rows)
    }


def ticket(size: int = 0) -> Any:
    from pipeline.run.ray.crew import Ticket

    return Ticket(Item(99, size))


def test_what_is_expected_is_the_median_and_more_for_what_is_larger() -> None:
    known = pace([(1.0, 100), (2.0, 200), (50.0, 300)])
    assert [known.expected(Item(9, size)) for size in (0, 100, 200, 400, 2000)] == [2.0, 2.0, 2.0, 4.0, 20.0]
    known.note(Item(4, 100), 1.0)
    assert known.expected(Item(9)) == 1.5
    assert pace([(1.0, 0)] * 3).expected(Item(9, 500)) == 1.0, "sizes are not known"
    assert pace([(1.0, 100)] * 2).expected(Item(9)) is None, "too few are done"


def test_a_straggler_takes_a_multiple_of_what_is_expected_and_at_least_so_long() -> None:
    known = pace([(20.0, 100)] * 3, factor=3.0, least_seconds=30.0)
    assert [known.is_straggler(Item(9, 100), seconds) for seconds in (59.0, 61.0)] == [False, True]
    assert [known.is_straggler(Item(9, 1000), seconds) for seconds in (599.0, 601.0)] == [False, True]
    quick = pace([(0.1, 100)] * 3, factor=3.0, least_seconds=30.0)
    assert [quick.is_straggler(Item(9), seconds) for seconds in (29.0, 31.0)] == [False, True]
    assert not pace([(1.0, 1)] * 3, factor=0.0).is_straggler(Item(9), 1e9), "speculation is off"


def test_an_item_is_under_way_twice_at_most_and_the_longest_comes_first() -> None:
    known = pace([(1.0, 0)] * 3, least_seconds=0.0)
    tickets = [ticket() for _ in range(5)]
    tickets[1].copies, tickets[2].done = 2, 0.0
    calls = under_way(*((member(), tickets[n], since) for n, since in enumerate((5.0, 0.0, 0.0, 1.0, 8.5))))
    assert [(found, seconds) for found, seconds in known.stragglers(calls, 10.0)] == [
        (tickets[3], 9.0),
        (tickets[0], 5.0),
    ]


def test_only_the_first_call_of_a_worker_has_its_time_counted() -> None:
    from pipeline.run.ray.stragglers import overdue

    worker = member()
    calls = under_way(
        (worker, ticket(), 0.0), (worker, ticket(), 0.0), (member(), ticket(), 5.0), (member(), None, 0.0)
    )
    assert list(overdue(calls, Limited(6.0), 10.0)) == [calls[0]], "opening has no limit"
    assert list(overdue(calls, Limited(0.0), 1e9)) == []
    assert [found for found, _ in pace([(1.0, 0)] * 3, least_seconds=4.0).stragglers(calls, 10.0)] == [
        calls[0].ticket,
        calls[2].ticket,
    ]


def test_a_call_whose_item_is_done_elsewhere_outlives_it_by_a_grace() -> None:
    known, late = pace([], grace_seconds=30.0), ticket()
    calls = under_way((member(), late, 0.0), (member(), ticket(), 0.0))
    assert list(known.outlived(calls, 1e9)) == []
    late.done = 100.0
    assert list(known.outlived(calls, 129.0)) == []
    assert list(known.outlived(calls, 131.0)) == [calls[0]]


def test_items_wait_in_order_and_those_that_are_done_no_more() -> None:
    from pipeline.run.ray.crew import Work

    work = Work(range(3))
    assert [work.exceeds(count) for count in (0, 2, 3)] == [True, True, False]
    first = work.take()
    assert first is not None
    work.copy(first)
    assert (first.copies, work.retry_is_next, work.exceeds(2), work.exceeds(3)) == (2, True, True, False)
    first.done = 1.0
    assert (work.retry_is_next, work.exceeds(1), work.exceeds(2)) == (False, True, False)
    assert [taken.item for taken in iter(work.take, None)] == [1, 2]
    assert not work.waiting


def test_a_failed_try_counts_and_is_repeated_unless_a_copy_is_under_way() -> None:
    from pipeline.run.ray.crew import Work

    work = Work([7])
    item = work.take()
    assert item is not None
    work.copy(item)
    assert work.take() is item
    assert (work.failed(item), work.waiting, item.attempts) == (False, False, 1), "the copy goes on"
    assert (work.failed(item), work.take(), item.attempts) == (False, item, 2)
    assert (work.failed(item), work.waiting, item.attempts) == (True, False, 3), "that was the last try"


def test_what_ends_with_the_worker_of_another_item_waits_again_at_no_cost() -> None:
    from pipeline.run.ray.crew import Work
    from pipeline.run.ray.stragglers import drop

    worker, work = member(), Work(range(3))
    hung, company, twin = work.take(), work.take(), work.take()
    assert hung is not None
    assert company is not None
    assert twin is not None
    work.copy(twin)
    assert work.take() is twin
    calls = under_way((worker, hung, 0.0), (worker, company, 0.0), (worker, twin, 0.0), (member(), twin, 0.0))
    hung.done = 5.0
    work.give_back(drop(calls, worker))
    assert list(calls) == [3]
    assert (work.take(), work.take()) == (company, None), "one is done, of one a copy is under way"
    assert (company.attempts, twin.attempts, twin.copies) == (0, 0, 1)
