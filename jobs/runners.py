"""Which runner carries a job out. Ray is loaded only when it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

from pipeline.run.base import Crew, Runner, Tasks
from pipeline.run.inline import InlineCrew, InlineRunner

T = TypeVar("T")
R = TypeVar("R")

ANSWER_SECONDS = 60.0
"""How long the workers of a crew may take to answer."""


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """How a run is spread. workers 0 lets the runner choose; cpus_per_worker 0 takes the worker's share of its node."""

    kind: Literal["inline", "ray"] = "inline"
    address: str = ""
    workers: int = 0
    gpus_per_worker: float | None = None
    cpus_per_worker: int = 0

    def on(self, device: str) -> RunnerOptions:
        """Return these options for a run that computes on a device: who is to use the CPU holds no GPU, unless told."""
        return replace(self, gpus_per_worker=0.0) if device == "cpu" and self.gpus_per_worker is None else self


def open_runner(options: RunnerOptions) -> Runner:
    """Start the runner; the caller closes it."""
    if options.kind == "inline":
        return InlineRunner(options.cpus_per_worker)
    module, chosen = _ray(options)
    return cast("Runner", module.RayRunner(chosen))


def open_crew(tasks: Tasks[T, R], options: RunnerOptions, seconds: float = ANSWER_SECONDS) -> Crew[T, R]:
    """Start a worker for each task and open them; the caller closes it. Without a number of workers one per node."""
    if options.kind == "inline":
        return InlineCrew(tasks(options.workers or 1))
    module, chosen = _ray(options)
    return cast("Crew[T, R]", module.RayCrew(tasks, chosen, seconds))


def _ray(options: RunnerOptions) -> tuple[Any, Any]:
    """Return the package and its own form of the options."""
    module = importlib.import_module("pipeline.run.ray")
    return module, module.RayOptions(
        address=options.address,
        workers=options.workers,
        gpus_per_worker=options.gpus_per_worker,
        cpus_per_worker=options.cpus_per_worker,
    )
