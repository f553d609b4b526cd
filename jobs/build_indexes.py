"""Train what is missing and fill what is new: the index part of a run, shared by every job that publishes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from jobs.progress import Reporter
from pipeline.core.errors import SightlineError
from pipeline.core.types import Artifact, DescriptorFile, IndexShard, Outcome
from pipeline.publish import manifests
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.run.base import Runner
from pipeline.stages.fill_index import FillItem, FillTask, groups
from pipeline.stages.kinds import index_specs
from pipeline.stages.train_index import TrainTask, train_item

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """rows_per_index_shard bounds the files; memory_bytes is the budget of all index shards of a kind, loaded."""

    root: str
    rows_per_index_shard: int = 2_000_000
    memory_bytes: int | None = None


def build_indexes(
    options: BuildOptions, recipe: Recipe, lists: Lists, runner: Runner, reporter: Reporter
) -> list[IndexShard]:
    """Return the index shards of the new snapshot: those that stay, and new ones over what they do not hold."""
    shards = manifests.index_shards(lists.indexes)
    files = list(manifests.descriptor_files(lists.descriptors))
    if not any(file.rows for file in files):
        return shards
    trained = {shard.kind: shard.trained for shard in shards}
    trained |= _train(options, recipe, [f for f in files if f.rows], set(trained), runner, reporter)
    work: list[FillItem] = []
    for spec in index_specs(recipe):
        held = {name for shard in shards if shard.kind == spec.kind for name in shard.files}
        new = [file for file in files if file.id not in held]
        cut = groups(new, options.rows_per_index_shard)
        work += [FillItem(kind=spec.kind, trained=trained[spec.kind], files=group) for group in cut]
    with reporter.phase("fill", len(work), "index shards") as phase:
        for outcome in runner.map(FillTask(root=options.root, recipe=recipe), work):
            shards.append(value_of(outcome))
            phase.advance()
    return sorted(shards, key=lambda shard: (shard.kind, shard.files))


def _train(
    options: BuildOptions,
    recipe: Recipe,
    files: list[DescriptorFile],
    already: set[str],
    runner: Runner,
    reporter: Reporter,
) -> dict[str, Artifact]:
    """Train the kinds that have no trained index yet; return kind -> artifact."""
    missing = [spec for spec in index_specs(recipe) if spec.kind not in already]
    items = [train_item(spec, files, memory_bytes=options.memory_bytes) for spec in missing]
    trained: dict[str, Artifact] = {}
    with reporter.phase("train", len(items), "kinds") as phase:
        for outcome in runner.map(TrainTask(root=options.root, recipe=recipe), items):
            trained[outcome.item.spec.kind] = value_of(outcome)
            phase.advance()
    return trained


def value_of(outcome: Outcome[Any, R]) -> R:
    """Return an outcome's value; what cannot be done without ends the run."""
    if outcome.value is None:
        raise SightlineError(outcome.error or "a worker gave no result")
    return outcome.value
