"""`sightline compact`: rewrite descriptor files without their dead rows, refill and merge index shards, publish."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs._main import run_module
from jobs.build_indexes import BuildOptions, build_indexes
from jobs.outcomes import value_of
from jobs.progress import Reporter
from jobs.runners import RunnerOptions, open_runner
from jobs.same_root import SameRoot
from pipeline.core.names import full_location
from pipeline.core.storage import open_store
from pipeline.core.types import IndexShard
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import Lease, LeaseTimes, hold
from pipeline.publish.lists import Lists, load_lists
from pipeline.publish.snapshot import Snapshot
from pipeline.run.base import Runner
from pipeline.stages.commit import Proposal, transact
from pipeline.stages.compact import MergeTask, RewriteTask, merge_memory, to_merge, to_rewrite
from pipeline.stages.merge import live_images, pruned
from pipeline.stages.present import require_present


@dataclass(frozen=True, kw_only=True)
class CompactOptions:
    """How far to go. least_dead: share of dead rows from which a descriptor file is rewritten; 0 means any."""

    root: str
    rows_per_index_shard: int = 2_000_000
    least_dead: float = 0.0
    runner: RunnerOptions = field(default_factory=RunnerOptions)
    dry_run: bool = False
    lease: LeaseTimes = field(default_factory=LeaseTimes)


def compact(options: CompactOptions, reporter: Reporter) -> dict[str, Any]:
    """Publish the same collection in fewer and cleaner files; nothing is published when there is nothing to gain."""
    options = replace(options, root=full_location(options.root))
    catalog = Catalog(open_store(options.root))
    if options.dry_run:
        return _outlook(options, load_lists(catalog, catalog.require_head()))
    told: dict[str, Any] = {}
    lease = Lease(writer=uuid.uuid4().hex[:12], operation="compact")
    with hold(catalog.store, lease, options.lease) as held:
        runner = SameRoot(open_runner(options.runner), options.root, held)
        try:

            def derive(head: Snapshot | None) -> Proposal | None:
                assert head is not None, "a head never goes away"
                before = load_lists(catalog, head)
                lists, counts = _compacted(options, head, before, runner, reporter)
                told.update(counts)
                require_present(catalog, lists, before)
                return _proposal(head, lists) if any(counts.values()) else None

            with reporter.watched(runner.progress):
                snapshot = transact(catalog, catalog.require_head(), derive, writer=lease.writer, before=held.check)
        finally:
            runner.close()
        now = snapshot or catalog.require_head()
    return {"snapshot": now.version, "published": snapshot is not None, "images": now.summary.images, **told}


def _compacted(
    options: CompactOptions, head: Snapshot, before: Lists, runner: Runner, reporter: Reporter
) -> tuple[Lists, dict[str, int]]:
    work = to_rewrite(before.descriptors, before.tombstones, options.least_dead)
    records = manifests.DescriptorRows()
    with reporter.phase("rewrite", len(work), "descriptor files") as phase:
        for outcome in runner.map(RewriteTask(root=options.root, recipe=head.recipe), work):
            records.append(value_of(outcome))
            phase.advance()
    old = pa.array([item.file.id for item in work], pa.string())
    stays = before.descriptors.filter(pc.invert(manifests.among(before.descriptors["id"], old)))
    descriptors = manifests.with_rows(stays, records.table())
    clean = [shard for shard in manifests.index_shards(before.indexes) if _all_there(shard, descriptors)]
    dropped = before.indexes.num_rows - len(clean)
    lists = pruned(replace(before, descriptors=descriptors, indexes=manifests.index_table(clean)))
    build = BuildOptions(root=options.root, rows_per_index_shard=options.rows_per_index_shard)
    shards = manifests.index_shards(build_indexes(build, head.recipe, lists, runner, reporter, trained=before.indexes))
    groups = to_merge(shards, options.rows_per_index_shard)
    gone = {part.artifact.uri for group in groups for part in group}
    result = [shard for shard in shards if shard.artifact.uri not in gone]
    task = MergeTask(root=options.root, recipe=head.recipe, memory=merge_memory(groups))
    with reporter.phase("merge", len(groups), "index shards") as phase:
        for merged in runner.map(task, groups):
            result.append(value_of(merged))
            phase.advance()
    result.sort(key=lambda shard: (shard.kind, shard.files))
    lists = replace(lists, indexes=manifests.index_table(result))
    assert live_images(lists.descriptors, lists.tombstones) == head.summary.images, "compaction loses no image"
    counts = {"rewritten": len(work), "refilled": dropped, "merged": sum(map(len, groups))}
    return lists, counts


def _all_there(shard: IndexShard, descriptors: pa.Table) -> bool:
    """Tell whether every file of an index shard is live and as it was."""
    return bool(pc.all(manifests.among(pa.array(shard.files, pa.string()), descriptors["id"])).as_py())


def _outlook(options: CompactOptions, lists: Lists) -> dict[str, Any]:
    work = to_rewrite(lists.descriptors, lists.tombstones, options.least_dead)
    names = {item.file.id for item in work}
    shards = manifests.index_shards(lists.indexes)
    there = lists.descriptors.filter(
        pc.invert(manifests.among(lists.descriptors["id"], pa.array(list(names), pa.string())))
    )
    clean = [shard for shard in shards if _all_there(shard, there)]
    groups = to_merge(clean, options.rows_per_index_shard)
    counts = {"rewritten": len(work), "refilled": len(shards) - len(clean), "merged": sum(map(len, groups))}
    return {"published": False, "dry_run": True, **counts}


def _proposal(head: Snapshot, lists: Lists) -> Proposal:
    return Proposal(
        lists=lists,
        recipe=head.recipe,
        source=head.source,
        summary=head.summary.model_copy(update={"added": 0, "removed": 0, "seconds": {}}),
        operation="compact",
        fitness=head.fitness,
    )


if __name__ == "__main__":
    run_module("compact")
