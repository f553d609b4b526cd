"""The steps of an indexing run: fit, extract, merge, build, measure, commit. What a run is, is in index.py.

Extraction depends on the plan alone. Everything after it is derived from the head that is to be followed, anew for each
newer head when somebody else publishes meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa

from jobs.build_indexes import BuildOptions, build_indexes
from jobs.compared import compared
from jobs.extraction import Extracted, extract, nothing_because
from jobs.failed import Failed, remember_failures
from jobs.fits import Fits, drifted_indexes, measure_fits
from jobs.gates import Gates
from jobs.outcomes import find_keys, value_of
from jobs.progress import Reporter
from jobs.reasons import Reason, reject_reasons
from pipeline.core.errors import SightlineError
from pipeline.core.names import absolute_location, public_url, same_place
from pipeline.core.stats import added, told
from pipeline.core.types import Shard
from pipeline.publish.catalog import Catalog
from pipeline.publish.failures import Failure
from pipeline.publish.leases import Held
from pipeline.publish.lists import EMPTY, Lists, load_lists
from pipeline.publish.parts import with_parts
from pipeline.publish.plan import Plan
from pipeline.publish.rebase import ContradictionError, rebase
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Fitness, Snapshot, Summary
from pipeline.run.base import Runner
from pipeline.stages.commit import Proposal, conflict, transact
from pipeline.stages.computed import rows_on_gpu
from pipeline.stages.describe import ExtractOptions
from pipeline.stages.drift import DriftTask, drift_items, judged
from pipeline.stages.extract import ExtractTask
from pipeline.stages.fill_index import lacking
from pipeline.stages.kinds import extract_spec
from pipeline.stages.merge import Change, Merged, merge, unchanged
from pipeline.stages.present import require_present


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options that the steps need; see IndexOptions."""

    source: str
    root: str
    extract: ExtractOptions
    rows_per_index_shard: int
    memory_bytes: int | None
    train_bytes: int
    gates: Gates
    max_read_errors: int
    retrain: str
    refit: bool = False
    recipe_file: str = ""


@dataclass(kw_only=True)
class IndexRun:
    """One run. head, base, plan: what it was planned from; failed: containers that were known to fail.

    The last fields say what became of it; failures: containers of which it is now remembered.
    """

    options: RunOptions
    catalog: Catalog
    head: Snapshot | None
    base: Lists
    plan: Plan
    lease: Held
    reporter: Reporter
    runner: Runner
    extracted: Extracted = field(default_factory=Extracted)
    rejected: tuple[Reason, ...] = ()
    past_gate: str = ""
    failed: Failed = field(default_factory=Failed)
    failures: tuple[Failure, ...] = ()
    retrained: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)
    stats: dict[str, float] = field(default_factory=dict)

    @property
    def writer(self) -> str:
        """Who this run is."""
        return self.lease.lease.writer

    def carry_out(self, recipe: Recipe) -> Snapshot | None:
        """Extract and publish; None when the gate was passed, or others have published all of it meanwhile."""
        self.plan = compared(self.plan, self.base, recipe, self.options, self.runner, self.reporter)
        if self.plan.count("renew"):
            self.stats = {"images": 0.0, "renewed": float(self.plan.count("renew"))}
        recipe = self._fits().complete(recipe, self.plan)
        self.extracted = self._extract(recipe, self.plan.shards(), "extract", self.plan.new_shards)
        self.plan = with_parts(self.plan, self.extracted.parts)
        self.rejected = reject_reasons(self.catalog, self.extracted.files)
        self.past_gate = self.options.gates.rejects(self.extracted.files, self.rejected)
        if self.head is not None or self.extracted.files.num_rows:
            # Where there is nothing at all, `_derive` says so.
            self.past_gate = self.past_gate or self.options.gates.failures(self.extracted)
        if self.past_gate:
            return None
        snapshot = transact(
            self.catalog,
            self.head,
            lambda head: self._derive(head, recipe, self.extracted.files),
            writer=self.writer,
            before=self.lease.check,
        )
        if not self.past_gate:
            corrupt = self.extracted.corrupt
            self.failures = remember_failures(self.catalog, recipe, self.failed, corrupt, self.reporter)
        return snapshot

    def _fits(self) -> Fits:
        return Fits(
            source=self.options.source,
            after=self._after,
            root=self.options.root,
            catalog=self.catalog,
            runner=self.runner,
            reporter=self.reporter,
            extract=lambda recipe, sample: self._extract(recipe, sample, "sample", len(sample)),
            warnings=self.warnings,
        )

    @property
    def _after(self) -> str:
        """What the fits of this run come after: the recipe of the head; a snapshot, where they are to be made again."""
        if self.options.refit:
            return f"snapshot {self.head.version if self.head is not None else 0}"
        return self.head.recipe.fingerprint if self.head is not None else ""

    def _extract(self, recipe: Recipe, shards: Iterable[Shard], name: str, total: int) -> Extracted:
        """Extract shards, or use their completion records."""
        options = self.options
        donors = recipe.donors(self.head.recipe if self.head is not None else None)
        task = ExtractTask(
            root=options.root,
            location=options.source,
            recipe=recipe,
            options=options.extract,
            max_read_errors=options.max_read_errors,
            donors=donors,
        )
        found = extract(task, shards, runner=self.runner, reporter=self.reporter, name=name, total=total)
        self.stats = added(self.stats, found.stats)
        return found

    def _derive(self, head: Snapshot | None, recipe: Recipe, files: pa.Table) -> Proposal | None:
        """Return what this run means over a head: that of the plan, or a newer one."""
        base, change = self._over(head, recipe, files)
        same = head is not None and head.recipe.fingerprint == recipe.fingerprint
        idle = same and not change.plan.changes
        if idle and (head is not self.head or self.options.retrain == "never") and not lacking(base, recipe):
            return None
        merged = merge(base, change, recipe, partial(find_keys, self.options.root, self.runner))
        if merged.by_content:
            self.reporter.say(f"{merged.by_content} images stay deleted: they equal images deleted under other keys")
        if merged.images == 0 and head is None:
            why = nothing_because(self.extracted, self.rejected)
            raise SightlineError(
                f"{public_url(self.options.source)}: nothing could be indexed ({why}); nothing is published"
            )
        self.past_gate = self.options.gates.losses(head.summary.images if head is not None else 0, merged.images)
        if self.past_gate:
            return None
        lists, fitness = self._build(recipe, merged, head.fitness if head is not None else ())
        if lists.indexes.equals(base.indexes) and (idle or (same and unchanged(lists, base))):
            return None
        require_present(self.catalog, lists, base)
        return Proposal(
            lists=lists,
            recipe=recipe,
            source=absolute_location(self.options.source),
            summary=self._summary(recipe, merged),
            fitness=fitness,
            recipe_file=self.options.recipe_file,
        )

    def _over(self, head: Snapshot | None, recipe: Recipe, files: pa.Table) -> tuple[Lists, Change]:
        """Return the lists to build on and the change to make, carried over when the head is not that of the plan."""
        failed = self.extracted.failed
        if head is self.head:
            return self.base, Change(plan=self.plan, files=files, failed=failed)
        assert head is not None, "a head never goes away"
        recipes = {recipe.fingerprint, self.head.recipe.fingerprint if self.head is not None else ""}
        if head.recipe.fingerprint not in recipes:
            raise conflict(head, self.head, self.writer, "both changed the recipe")
        sources = [self.options.source] + ([self.head.source] if self.head is not None else [])
        if not any(same_place(head.source, source) for source in sources):
            raise conflict(head, self.head, self.writer, "both changed the source")
        base = lists_for(self.catalog, head, recipe)
        try:
            moved = rebase(self.plan, base.listing, failed)
        except ContradictionError as error:
            raise conflict(head, self.head, self.writer, f"both changed {error}") from None
        self.reporter.say(f"snapshot {head.version} was published meanwhile by writer {head.writer}; going on from it")
        return base, Change(plan=moved.plan, files=files, failed=failed, strays=moved.strays)

    def _build(self, recipe: Recipe, merged: Merged, before: tuple[Fitness, ...]) -> tuple[Lists, tuple[Fitness, ...]]:
        """Return the lists with their index shards, retrained where that was asked for, and how they fit."""
        options = BuildOptions(
            root=self.options.root,
            rows_per_index_shard=self.options.rows_per_index_shard,
            memory_bytes=self.options.memory_bytes,
            train_bytes=self.options.train_bytes,
            device=self.options.extract.device,
            retrain=frozenset(spec.kind for spec in recipe.indexes)
            if self.options.retrain == "always"
            else frozenset(),
        )
        lists = replace(merged.lists, indexes=build_indexes(options, recipe, merged.lists, self.runner, self.reporter))
        fitness = self.measure(recipe, lists, before)
        drifted = drifted_indexes(fitness)
        if drifted and self.options.retrain == "auto":
            for fit in fitness:
                if fit.kind in drifted:
                    self.reporter.say(f"retraining {fit.kind}: {'; '.join(fit.drifted)}")
            anew = replace(options, retrain=drifted)
            lists = replace(lists, indexes=build_indexes(anew, recipe, lists, self.runner, self.reporter))
            fitness = self.measure(recipe, lists, fitness)
        self.retrained = tuple(sorted(options.retrain | (drifted if self.options.retrain == "auto" else frozenset())))
        return lists, fitness

    def measure(self, recipe: Recipe, lists: Lists, before: tuple[Fitness, ...]) -> tuple[Fitness, ...]:
        """Return how the trained indexes fit now."""
        with self.reporter.phase("drift"):
            task = DriftTask(root=self.options.root, recipe=recipe)
            found = {o.item.kind: value_of(o) for o in self.runner.map(task, drift_items(recipe, lists, before))}
        return judged(found, before) + measure_fits(self.options.root, recipe, lists, before, self.runner)

    def _summary(self, recipe: Recipe, merged: Merged) -> Summary:
        unread = self.extracted.unread.total
        return Summary(
            images=merged.images,
            seen=merged.seen,
            duplicates=merged.duplicates,
            rejected=merged.seen - merged.images - merged.duplicates,
            added=merged.added,
            removed=merged.removed,
            set_aside=tuple(sorted([*self.extracted.set_aside, *self.failed.left])),
            seconds=dict(self.reporter.seconds),
            origin=extract_spec(recipe).label,
            stats=told(self.stats)
            | ({"unread": float(unread)} if unread else {})
            | rows_on_gpu(self.reporter.computed),
        )


def lists_for(catalog: Catalog, head: Snapshot | None, recipe: Recipe) -> Lists:
    """Return the head's lists if its descriptors are those of the recipe, else only what was deleted by name."""
    if head is None:
        return EMPTY
    lists = load_lists(catalog, head)
    return lists if head.recipe.descriptor_id == recipe.descriptor_id else replace(EMPTY, deletions=lists.deletions)
