"""A trial: a few shards extracted by a worker, to say how fast it is and what it takes. ROOT is not written to.

It runs where the work would run: in a worker of the run's runner, with the resources and threads of one.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass, field, replace

import torch

from pipeline.core import staging
from pipeline.core.artifacts import read_artifact
from pipeline.core.errors import AccessError, PlaceError
from pipeline.core.resources import Resources
from pipeline.core.storage import Store, open_store
from pipeline.core.types import Artifact, DescriptorFile, Shard
from pipeline.publish.recipe import Recipe
from pipeline.stages.describe import ExtractOptions
from pipeline.stages.extract import ExtractTask, ExtractWorker

RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of the unit in which the system tells a process's largest size."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a few shards came to: images seen, bytes read, seconds after the network was loaded, dimensions, memory.

    device: what the worker computed on.
    """

    seen: int
    bytes: int
    seconds: float
    dim: int
    rows_per_image: float
    memory: int
    gpu_memory: int
    device: str

    @property
    def rate(self) -> float:
        """Images per second of one worker."""
        return self.seen / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """Work for a runner: from shards to a Trial; None when no image of them could be described.

    blobs: what of the recipe is not stored in ROOT yet, by its name. seconds: how long shards are taken up.
    """

    root: str
    location: str
    recipe: Recipe
    options: ExtractOptions = field(default_factory=ExtractOptions)
    blobs: dict[str, bytes] = field(default_factory=dict, repr=False)
    seconds: float = 10.0

    @property
    def resources(self) -> Resources:
        """Those of a worker of the run."""
        return replace(self.of_run("").resources, depth=1)

    def of_run(self, root: str) -> ExtractTask:
        """Return the task of the run. One shard at a time: seconds of shards that overlap would be counted twice."""
        options = replace(self.options, overlap=False)
        return ExtractTask(root=root, location=self.location, recipe=self.recipe, options=options)

    def open(self, threads: int) -> TrialWorker:
        """Load the extractor from a folder of the worker's own."""
        return TrialWorker(self, threads)


class TrialWorker:
    """One loaded extractor, for one trial."""

    def __init__(self, task: TrialTask, threads: int) -> None:
        self._seconds = task.seconds
        self._folder = staging.folder("trial-")
        try:
            stage_weights(task.recipe, open_store(task.root), task.blobs, self._folder.name)
            self._worker = task.of_run(self._folder.name).open(threads)
        except BaseException:
            self._folder.cleanup()
            raise

    def __call__(self, shards: tuple[Shard, ...]) -> Trial | None:
        """Extract shards until the time is up; those that cannot be read are passed over."""
        with self._folder:
            return _tried(self._worker, shards, self._seconds)


def _tried(worker: ExtractWorker, shards: tuple[Shard, ...], limit: float) -> Trial | None:
    seen = read = rows = indexed = dim = 0
    spent = 0.0
    for shard in shards:
        started = time.perf_counter()
        record = _record(worker, shard)
        if record is not None:
            seen, dim, read = seen + record.seen, record.dim, read + shard.bytes
            rows, indexed = rows + record.rows, indexed + record.indexed
            spent += time.perf_counter() - started
        if spent > limit:
            break
    if not seen:
        return None
    return Trial(
        seen=seen,
        bytes=read,
        seconds=spent,
        dim=dim,
        rows_per_image=rows / max(1, indexed),
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        gpu_memory=int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0,
        device=worker.device,
    )


def _record(worker: ExtractWorker, shard: Shard) -> DescriptorFile | None:
    try:
        return worker(shard)
    except (AccessError, PlaceError):
        raise
    except Exception:  # noqa: BLE001 - the run sets such a shard aside and names it; a trial measures the others
        return None


def stage_weights(recipe: Recipe, root: Store, blobs: dict[str, bytes], folder: str) -> Store:
    """Return a store in a folder of this machine that an extractor can be built from; ROOT is not written to."""
    store = open_store(folder)
    for uri, data in blobs.items():
        store.write(uri, data)
    for artifact in (value for _, value in recipe.extractor if isinstance(value, Artifact)):
        if not store.exists(artifact.uri):
            store.write(artifact.uri, read_artifact(root, artifact))
    return store
