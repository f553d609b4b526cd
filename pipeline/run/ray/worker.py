"""The actor: a process around an opened task."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ray

from pipeline.core.errors import AccessError, SightlineError
from pipeline.core.types import Outcome
from pipeline.run.base import Task, attempt, describe
from pipeline.run.ray.metrics import WorkerMetrics

MOST_DEPTH = 2
"""Calls that an actor takes at a time; see Task."""


class _Worker:
    """An actor around an opened task; another task takes its place when the next phase begins."""

    def __init__(self, gpus: float) -> None:
        if not gpus:
            # Ray hides no GPU from a process that asked for none, and torch would take the first one.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._function: Callable[[Any], Any] | None = None
        self._task = ""
        self._metrics = WorkerMetrics()

    def open(self, task: Task[Any, Any], threads: int) -> SightlineError | None:
        """Open a task; return why it could not be opened, or None."""
        self._function, self._task = None, type(task).__name__
        try:
            self._function = task.open(threads)
        except SightlineError as error:
            return error
        except Exception as error:  # noqa: BLE001 - told to the driver, which ends the run with it
            return SightlineError(describe(error))
        return None

    def run(self, item: Any, attempts: int) -> Outcome[Any, Any] | AccessError:
        """Carry out one item; an error that ends the run is returned in place of an outcome."""
        assert self._function is not None, "the driver stops when a worker did not open"
        try:
            outcome = attempt(self._function, item, attempts)
        except AccessError as error:
            return error
        self._metrics.count(self._task, outcome)
        return outcome


WORKER: Any = ray.remote(max_concurrency=MOST_DEPTH)(_Worker)
