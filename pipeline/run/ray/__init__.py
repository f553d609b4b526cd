"""Everything that touches Ray: the runner, submission as a Ray job, metrics. No other module imports ray."""

from pipeline.run.ray.holders import RayCrew
from pipeline.run.ray.options import RayOptions
from pipeline.run.ray.runner import RayRunner

__all__ = ["RayCrew", "RayOptions", "RayRunner"]
