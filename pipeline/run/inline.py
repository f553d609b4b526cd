"""The inline runner: one item after the other in this process. What tests and small collections use."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from pipeline.core.types import Outcome
from pipeline.run.base import Task, attempt

T = TypeVar("T")
R = TypeVar("R")


class InlineRunner:
    """See pipeline.run.base.Runner."""

    name = "inline"

    def map(self, task: Task[T, R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
        """Yield outcomes in the order of the items; the task is opened when the first item comes."""
        function = None
        for item in items:
            if function is None:
                function = task.open(os.cpu_count() or 1)
            yield attempt(function, item)

    def progress(self, phase: str, pending: int, seconds: float) -> None:
        """The reporter shows it; nobody else watches."""

    def close(self) -> None:
        """Nothing was started."""
