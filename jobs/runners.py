"""Which runner carries a job out. Ray is loaded only when it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal, cast

from pipeline.run.base import Runner
from pipeline.run.inline import InlineRunner


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """How a run is spread. workers 0 lets the runner choose."""

    kind: Literal["inline", "ray"] = "inline"
    address: str = ""
    workers: int = 0
    gpus_per_worker: float | None = None


def open_runner(options: RunnerOptions) -> Runner:
    """Start the runner; the caller closes it."""
    if options.kind == "inline":
        return InlineRunner()
    module = importlib.import_module("pipeline.run.ray")
    chosen = module.RayOptions(
        address=options.address, workers=options.workers, gpus_per_worker=options.gpus_per_worker
    )
    return cast("Runner", module.RayRunner(chosen))
