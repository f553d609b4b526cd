"""What every runner promises; the Ray runner's own promises are in test_ray.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pipeline.core.errors import UserError
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
