"""What every crew promises; the Ray crew's own promises are in test_ray_crew.py."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from jobs.runners import RunnerOptions, open_crew
from pipeline.core.errors import UserError
from pipeline.core.resources import Resources
from pipeline.run.inline import InlineCrew


@dataclass(frozen=True)
class Times:
    """Multiplies by its number; refuses what is not positive, and cannot be opened when its number is zero."""

    number: int
    closed: list[int] = field(default_factory=list)
    resources = Resources()

    def open(self, threads: int) -> Opened:
        if not self.number:
            raise UserError("task", "is broken", "mend it")
        return Opened(self)


@dataclass(frozen=True)
class Opened:
    task: Times

    def __call__(self, item: int) -> int:
        if item <= 0:
            raise UserError(str(item), "is not positive")
        return item * self.task.number

    def close(self) -> None:
        self.task.closed.append(self.task.number)


def test_every_worker_answers_in_the_order_of_the_tasks() -> None:
    crew = open_crew(lambda count: [Times(number + 1) for number in range(count)], RunnerOptions(workers=3))
    assert [crew.ask(item) for item in (5, 7)] == [[5, 10, 15], [7, 14, 21]]
    crew.close()


def test_an_error_is_raised_rather_than_a_part_of_the_answer() -> None:
    with pytest.raises(UserError, match="is not positive"):
        InlineCrew([Times(1), Times(2)]).ask(0)


def test_what_was_opened_is_closed_also_when_a_task_cannot_be_opened() -> None:
    closed: list[int] = []
    crew = InlineCrew([Times(1, closed), Times(2, closed)])
    crew.close()
    assert closed == [1, 2]
    with pytest.raises(UserError, match="mend it"):
        InlineCrew([Times(3, closed), Times(0, closed)])
    assert closed == [1, 2, 3]
