"""Train what is missing and fill what is new: the index part of a run, shared by every job that publishes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from jobs.outcomes import value_of
from jobs.progress import Reporter
from pipeline.core.types import Artifact, Ints
from pipeline.publish import manifests
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.run.base import Runner
from pipeline.stages.fill_index import FillItem, FillTask, fill_memory, groups, unheld
from pipeline.stages.kinds import index_specs
from pipeline.stages.train_index import TRAIN_BYTES, TrainTask, train_item, train_memory


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """rows_per_index_shard bounds the files; memory_bytes is the budget of all index shards of a kind, loaded;
    train_bytes that of a training.

    retrain: kinds whose trained index is not taken up again.
    """

    root: str
    rows_per_index_shard: int = 2_000_000
    memory_bytes: int | None = None
    train_bytes: int = TRAIN_BYTES
    retrain: frozenset[str] = frozenset()


def build_indexes(
    options: BuildOptions,
    recipe: Recipe,
    lists: Lists,
    runner: Runner,
    reporter: Reporter,
    *,
    trained: pa.Table | None = None,
) -> pa.Table:
    """Return the index shards of the new snapshot: those that stay, and new ones over what they do not hold.

    trained: index shards whose trained indexes are taken up although they do not stay themselves.
    """
    stays = lists.indexes.filter(pc.invert(pc.is_in(lists.indexes["kind"], pa.array(options.retrain, pa.string()))))
    if not manifests.total(lists.descriptors, "rows"):
        return stays
    lists = replace(lists, indexes=stays)
    known = {shard.kind: shard.trained for shard in manifests.index_shards(stays if trained is None else trained)}
    known |= _train(options, recipe, lists.descriptors, set(known), runner, reporter)
    wanted = {
        spec.kind: groups(lists.descriptors, unheld(lists, spec.kind), options.rows_per_index_shard)
        for spec in index_specs(recipe)
    }
    made, memory = manifests.index_shards(stays), fill_memory(recipe, lists.descriptors, wanted)
    with reporter.phase("fill", sum(map(len, wanted.values())), "index shards") as phase:
        for outcome in runner.map(
            FillTask(root=options.root, recipe=recipe, memory=memory), _fill_items(lists.descriptors, wanted, known)
        ):
            made.append(value_of(outcome))
            phase.advance()
    return manifests.index_table(sorted(made, key=lambda shard: (shard.kind, shard.files)))


def _fill_items(
    descriptors: pa.Table, wanted: dict[str, list[Ints]], trained: dict[str, Artifact]
) -> Iterator[FillItem]:
    for kind, runs in wanted.items():
        for places in runs:
            files = manifests.descriptor_files(descriptors.take(pa.array(places)))
            yield FillItem(kind=kind, trained=trained[kind], files=tuple(files))


def _train(
    options: BuildOptions, recipe: Recipe, files: pa.Table, already: set[str], runner: Runner, reporter: Reporter
) -> dict[str, Artifact]:
    """Train the kinds that have no trained index yet; return kind -> artifact."""
    missing = [spec for spec in index_specs(recipe) if spec.kind not in already]
    shards = -(-manifests.total(files, "rows") // options.rows_per_index_shard)
    items = [
        train_item(spec, files, memory_bytes=options.memory_bytes, train_bytes=options.train_bytes, shards=shards)
        for spec in missing
    ]
    trained: dict[str, Artifact] = {}
    with reporter.phase("train", len(items), "kinds") as phase:
        for on_gpu in (True, False):
            chosen = [item for item in items if item.spec.gpu_training == on_gpu]
            task = TrainTask(root=options.root, recipe=recipe, gpu=on_gpu, memory=train_memory(chosen))
            for outcome in runner.map(task, chosen):
                trained[outcome.item.spec.kind] = value_of(outcome)
                phase.advance()
    return trained
