"""The actor: a process around an opened task."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.core.errors import PlaceError, SightlineError, WorkerError
from pipeline.core.threads import usable_cores
from pipeline.core.types import Outcome
from pipeline.run.base import ENDS_RUN, Task, attempt, depth_of, describe, name_of
from pipeline.run.faults import fault_of
from pipeline.run.ray.metrics import WorkerMetrics
from pipeline.run.ray.shapes import Limits, Shape, threads_on
from pipeline.run.ray.supply import node_of
from pipeline.run.ray.watchdog import OPEN_SECONDS, ending_after

MOST_DEPTH = 8
"""Calls that an actor takes at a time at most; see Task."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Whether a task could be opened. node: where. depth: calls that its function takes at a time.

    broken: the fault is the process's, another one may do.
    """

    node: str
    depth: int = 1
    error: SightlineError | None = None
    broken: bool = False


@dataclass(frozen=True, kw_only=True)
class Seat:
    """What the workers of a task ask for, of which each makes out on its own node how many threads it may use."""

    shape: Shape
    limits: Limits

    def threads(self, node: str) -> int:
        """Return the threads of a worker on a node that this process runs on."""
        here = next(listed for listed in ray.nodes() if listed["NodeID"] == node)
        return threads_on(node_of(here), usable_cores(), self.shape, self.limits)


class _Worker:
    """An actor around an opened task; another task takes its place when the next phase begins."""

    def __init__(self, gpus: float) -> None:
        if not gpus:
            # Ray hides no GPU from a process that asked for none, and torch would take the first one.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._function: Callable[[Any], Any] | None = None
        self._task = ""
        self._metrics = WorkerMetrics()

    def open(self, task: Task[Any, Any], seat: Seat) -> Opened:
        """Open a task; say where, and why it could not be opened."""
        self._function, self._task = None, name_of(task)
        node = str(ray.get_runtime_context().get_node_id())
        try:
            with ending_after(OPEN_SECONDS):
                self._function = task.open(seat.threads(node))
        except WorkerError as error:
            return Opened(node=node, error=WorkerError(f"{error} (on node {platform.node()})"), broken=True)
        except SightlineError as error:
            return Opened(node=node, error=error)
        except Exception as error:  # noqa: BLE001 - the driver ends the run with it, or tries another worker
            return Opened(node=node, error=SightlineError(describe(error)), broken=fault_of(error) == "worker")
        return Opened(node=node, depth=min(MOST_DEPTH, depth_of(task, self._function)))

    def run(self, item: Any, attempts: int) -> Outcome[Any, Any] | SightlineError:
        """Carry out one item; an error that ends the run is returned in place of an outcome."""
        assert self._function is not None, "the driver stops when a worker did not open"
        try:
            outcome = attempt(self._function, item, attempts)
        except PlaceError as error:
            # Scratch space is that of one node.
            return PlaceError(f"{error} (on node {platform.node()})")
        except ENDS_RUN as error:
            return error
        self._metrics.count(self._task, outcome)
        return outcome


WORKER: Any = ray.remote(max_concurrency=MOST_DEPTH)(_Worker)
