"""Train what is missing and fill what is new: the index part of a run, shared by every job that publishes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from jobs.outcomes import value_of
from jobs.progress import Reporter
from pipeline.core.types import Artifact, Ints
from pipeline.index._engine import worth_filling, worth_training
from pipeline.publish import manifests
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.run.base import Runner
from pipeline.stages.fill_index import FillItem, FillTask, fill_memory, groups, unheld
from pipeline.stages.kinds import index_specs
from pipeline.stages.train_index import TRAIN_BYTES, TrainItem, TrainTask, train_item, train_memory


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """rows_per_index_shard bounds the files; memory_bytes is the budget of all index shards of a kind, loaded;
    train_bytes that of a training.

    retrain: kinds whose trained index is not taken up again. device: cpu, auto or cuda, of kinds that a GPU is for.
    """

    root: str
    rows_per_index_shard: int = 2_000_000
    memory_bytes: int | None = None
    train_bytes: int = TRAIN_BYTES
    retrain: frozenset[str] = frozenset()
    device: str = "auto"


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
        for task in _fill_tasks(options, recipe, lists.descriptors, wanted):
            mine = {kind: wanted[kind] for kind in task.kinds}
            for outcome in runner.map(replace(task, memory=memory), _fill_items(lists.descriptors, mine, known)):
                filled = value_of(outcome)
                made.append(filled.shard)
                reporter.note(filled.computed)
                phase.advance()
    return manifests.index_table(sorted(made, key=lambda shard: (shard.kind, shard.files)))


def _fill_tasks(
    options: BuildOptions, recipe: Recipe, descriptors: pa.Table, wanted: dict[str, list[Ints]]
) -> Iterator[FillTask]:
    """Yield the task of the kinds that are filled on a GPU where there is one, and that of the others."""
    rows, dim = manifests.total(descriptors, "rows"), descriptors["dim"][0].as_py()
    counts = descriptors["rows"].to_numpy()
    on_gpu = set()
    for spec in index_specs(recipe):
        new = sum(int(counts[places].sum()) for places in wanted[spec.kind])
        work = spec.filling_work(spec.lists(rows), dim)
        if new and (spec.needs_gpu or worth_filling(options.device, work, new)):
            on_gpu.add(spec.kind)
    for kinds, device in ((on_gpu, options.device), (wanted.keys() - on_gpu, "cpu")):
        if kinds:
            yield FillTask(root=options.root, recipe=recipe, kinds=tuple(sorted(kinds)), device=device)


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
            chosen = [item for item in items if _on_gpu(options, item) == on_gpu]
            device = options.device if on_gpu else "cpu"
            task = TrainTask(root=options.root, recipe=recipe, device=device, memory=train_memory(chosen))
            for outcome in runner.map(task, chosen):
                result = value_of(outcome)
                trained[outcome.item.spec.kind] = result.artifact
                reporter.note(result.computed)
                phase.advance()
    return trained


def _on_gpu(options: BuildOptions, item: TrainItem) -> bool:
    return worth_training(options.device, item.spec.training_work(item.rows, item.files[0].dim))
