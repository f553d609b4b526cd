"""How the Ray runner and crew are spread, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.run.ray.stragglers import Speculation


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where and with what workers run. workers 0 means as many as the nodes have room for: one per GPU, or one per
    two CPUs where there is no GPU, and no more than there is memory for. It is the most that an autoscaler is shown.

    gpus_per_worker: None means 1 where there are or may be GPUs; a number that the cluster can never give is a
    UserError. cpus_per_worker: CPUs of a worker, which are its threads; 0 means its share of its node.
    speculation: when items that take long are issued again.
    """

    address: str = ""
    workers: int = 0
    gpus_per_worker: float | None = None
    cpus_per_worker: int = 0
    speculation: Speculation = field(default_factory=Speculation)
