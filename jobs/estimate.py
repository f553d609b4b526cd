"""What a run would take: sizes from the plan and the recipe, speed and memory from a short trial on real shards.

The trial writes into a temporary folder of its worker only. Settings that cannot work (faiss's limits, a memory budget
that is too small) are refused here, before hours are spent.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from typing import Any

from jobs.units import human_bytes
from pipeline.core.errors import SightlineError
from pipeline.core.types import Shard
from pipeline.publish.plan import Plan
from pipeline.publish.recipe import Recipe
from pipeline.run.base import Runner
from pipeline.stages.kinds import index_specs
from pipeline.stages.trial import Trial, TrialTask

MOST_SHARDS = 100
TRIAL_ENTRIES = 64
"""Single images of the trial's shard: enough to fill a few batches."""
PER_IMAGE = 150
"""Bytes per image in descriptor files beside the descriptor: names, sizes, digest."""
PER_LOCAL = 24
"""Bytes of a local descriptor beside its vector: box, scale, score."""
HALF, FULL = 2, 4


def run_trial(task: TrialTask, plan: Plan, runner: Runner) -> Trial | None:
    """Extract a few of the plan's shards by a worker of the runner; None when there is nothing to extract."""
    shards = tuple(_shortened(shard) for shard in islice(plan.shards(), MOST_SHARDS))
    if not shards:
        return None
    (outcome,) = runner.map(task, [shards])
    if outcome.error is not None:
        raise SightlineError(outcome.error)
    return outcome.value


def _shortened(shard: Shard) -> Shard:
    """Return a shard of at most some single images; a container stays as it is."""
    entries = shard.entries[:TRIAL_ENTRIES]
    if len(entries) == len(shard.entries):
        return shard
    return replace(shard, id=f"{shard.id}-trial", entries=entries, bytes=sum(entry.size for entry in entries))


def estimate(
    plan: Plan, recipe: Recipe, trial: Trial, *, already: int, workers: int, memory_bytes: int | None
) -> dict[str, Any]:
    """Return sizes in bytes and hours; already: images that the head holds. A UserError for settings that cannot be."""
    new = plan.count("add") if plan.packed else round(plan.bytes_to_read * trial.seen / max(1, trial.bytes))
    rows = max(1, new + already)
    local, kept = trial.rows_per_image, 0.0
    dim = trial.dim
    if recipe.encode is not None:
        kept = local * (trial.dim * HALF + PER_LOCAL) if recipe.encode.keep else 0.0
        dim, local = recipe.encode.dim(trial.dim), 1.0
    dim = min(dim, recipe.whiten.dims or dim) if recipe.whiten is not None else dim
    width = {"float16": HALF, "float32": FULL, "binary": 1 / 8}[recipe.dtype]
    vectors = max(1, round(rows * local))
    indexes = {}
    for spec in index_specs(recipe):
        resolved = spec.resolve(rows=vectors, dim=dim, memory_bytes=memory_bytes)
        indexes[spec.kind] = vectors * resolved.row_bytes(dim)
    seconds = new / trial.rate if trial.rate else 0.0
    return {
        "images": new,
        "bytes_to_read": plan.bytes_to_read,
        "dimensions": dim,
        "descriptors_per_image": round(local, 1),
        "descriptor_bytes": round(new * (local * (dim * width + (PER_LOCAL if local > 1 else 0)) + kept + PER_IMAGE)),
        "index_bytes": indexes,
        "images_per_second_per_worker": round(trial.rate, 2),
        "memory_per_worker": trial.memory,
        "gpu_memory_per_worker": trial.gpu_memory,
        "device": trial.device,
        "workers": workers,
        "hours": round(seconds / workers / 3600, 4),
        "trial": {"images": trial.seen, "seconds": round(trial.seconds, 3), "at": time.strftime("%Y-%m-%dT%H:%M:%S")},
    }


def lines(told: dict[str, Any]) -> list[str]:
    """Return an estimate in words."""
    sizes = ", ".join(f"{kind} {human_bytes(size)}" for kind, size in told["index_bytes"].items())
    gpu = f", {human_bytes(told['gpu_memory_per_worker'])} on the GPU" if told["gpu_memory_per_worker"] else ""
    return [
        f"about {told['images']} images, {human_bytes(told['bytes_to_read'])} to read; descriptors of "
        f"{told['dimensions']} dimensions {human_bytes(told['descriptor_bytes'])}; indexes in all: {sizes}",
        f"{told['images_per_second_per_worker']:.1f} images/s per worker on {told['device']} (trial of "
        f"{told['trial']['images']} images in {told['trial']['seconds']:.1f} s): {told['hours']:.2f} hours with "
        f"{told['workers']} workers; memory of a worker {human_bytes(told['memory_per_worker'])}{gpu}",
    ]
