"""The indexing job: plan, fit, extract, train, fill, commit. `sightline index` and `python -m jobs.index` run it.

Only what is new is extracted. A killed job, run again, goes on where it was: finished shards, fits, trainings and index
shards have completion records. Stages do the work; this file says in what order.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from jobs._main import run_module
from jobs.build_indexes import BuildOptions, build_indexes, value_of
from jobs.progress import Reporter
from jobs.recipe import Built, RecipeOptions, adopt, build_recipe
from jobs.runners import RunnerOptions, open_runner
from pipeline.core.errors import SightlineError, UserError
from pipeline.core.names import public_url
from pipeline.core.storage import open_store
from pipeline.core.types import Artifact, DescriptorFile, Shard
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import EMPTY, Lists, load_lists
from pipeline.publish.plan import Packing, Plan, known_entries, make_plan
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Snapshot, Summary
from pipeline.run.base import Runner
from pipeline.sources._detect import detect
from pipeline.stages import commit
from pipeline.stages.extract import ExtractOptions, ExtractTask
from pipeline.stages.fit import MomentsTask, fit_whitening, fitted, sample_shards
from pipeline.stages.kinds import extract_spec, source_spec


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """A run, as a value. rows_per_index_shard bounds index shards; memory_bytes is the budget of a loaded index."""

    source: str
    root: str
    recipe: RecipeOptions = field(default_factory=RecipeOptions)
    runner: RunnerOptions = field(default_factory=RunnerOptions)
    extract: ExtractOptions = field(default_factory=ExtractOptions)
    packing: Packing = field(default_factory=Packing)
    rows_per_index_shard: int = 2_000_000
    memory_bytes: int | None = None
    max_reject_rate: float | None = None
    replace_source: bool = False
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What became of a run; `published` is False when nothing was new, on a dry run, and past the reject gate."""

    snapshot: int | None
    published: bool
    recipe: Recipe
    plan: Plan
    images: dict[str, int]
    seconds: dict[str, float]
    skipped: int = 0
    set_aside: dict[str, str] = field(default_factory=dict)
    past_gate: str = ""

    @property
    def exit_code(self) -> int:
        """0, or 4 when shards were set aside or the reject gate was passed."""
        return 4 if self.set_aside or self.past_gate else 0


def run_index(options: IndexOptions, reporter: Reporter, runner: Runner | None = None) -> IndexReport:
    """Carry out an indexing run; see the module. A runner that is given stays open, and options.runner is not used."""
    store = open_store(options.root)
    catalog = Catalog(store)
    head = catalog.head()
    _same_source(options, head)
    kind = options.recipe.source_kind or (head.recipe.source.kind if head and not options.recipe.recipe else None)
    built = build_recipe(options.recipe, head=head.recipe if head else None, source_kind=kind or detect(options.source))
    recipe = adopt(built.recipe, head.recipe if head else None)
    same = head is not None and head.recipe.descriptor_id == recipe.descriptor_id
    base = load_lists(catalog, head) if head is not None and same else EMPTY
    with reporter.phase("plan"):
        source = source_spec(recipe).open(options.source)
        packing = options.packing if source_spec(recipe).packs else None
        plan = make_plan(
            source.listing(), known_entries(base.listing), source=public_url(options.source), packing=packing
        )
    reporter.say(f"plan: {plan.reason}" + (f", {source.skipped} skipped" if source.skipped else ""))
    run = _Run(options=options, catalog=catalog, head=head, base=base, plan=plan, skipped=source.skipped)
    if options.dry_run or run.nothing_to_do(recipe):
        return run.unpublished(recipe, reporter)
    if not plan.count("add") and not plan.count("keep") and head is None:
        raise UserError(
            public_url(options.source), "holds no images that match", "check the path, --match or --source-kind"
        )
    _store_blobs(catalog, built)
    if runner is not None:
        return run.carry_out(recipe, runner, reporter)
    own = open_runner(options.runner)
    try:
        return run.carry_out(recipe, own, reporter)
    finally:
        own.close()


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The fixed facts of a run, and its steps."""

    options: IndexOptions
    catalog: Catalog
    head: Snapshot | None
    base: Lists
    plan: Plan
    skipped: int

    def nothing_to_do(self, recipe: Recipe) -> bool:
        same = self.head is not None and self.head.recipe.fingerprint == recipe.fingerprint
        return same and not self.plan.count("add") and not self.plan.count("drop")

    def unpublished(self, recipe: Recipe, reporter: Reporter) -> IndexReport:
        version = self.head.version if self.head else None
        images = _images(self.head.summary) if self.head else dict.fromkeys(_COUNTS, 0)
        images.update(added=0, removed=0)
        return self._report(recipe, reporter, snapshot=version, published=False, images=images)

    def carry_out(self, recipe: Recipe, runner: Runner, reporter: Reporter) -> IndexReport:
        recipe = self._with_whitening(recipe, runner, reporter)
        done, set_aside = self._extract(recipe, self.plan.shards(), runner, reporter)
        merged = commit.merge(self.catalog, self.base, self.plan, done, recipe)
        rejected = sum(file.rejected for file in done.values())
        gate = self._gate(rejected, sum(file.seen for file in done.values()))
        summary = self._summary(recipe, merged, set_aside, reporter)
        if gate:
            report = self.unpublished(recipe, reporter)
            return IndexReport(**{**vars(report), "set_aside": set_aside, "past_gate": gate})
        if merged.images == 0 and self.head is None:
            why = next(iter(set_aside.values()), "") or f"all {merged.seen} images were rejected"
            raise SightlineError(
                f"{public_url(self.options.source)}: nothing could be indexed ({why}); nothing is published"
            )
        build = BuildOptions(
            root=self.options.root,
            rows_per_index_shard=self.options.rows_per_index_shard,
            memory_bytes=self.options.memory_bytes,
        )
        shards = build_indexes(build, recipe, merged.lists, runner, reporter)
        lists = Lists(**{**vars(merged.lists), "indexes": manifests.index_table(shards)})
        with reporter.phase("commit"):
            snapshot = commit.publish(
                self.catalog,
                head=self.head,
                lists=lists,
                recipe=recipe,
                source=public_url(self.options.source),
                writer=uuid.uuid4().hex[:12],
                summary=summary.model_copy(update={"seconds": dict(reporter.seconds)}),
            )
        images = _images(snapshot.summary)
        return self._report(
            recipe, reporter, snapshot=snapshot.version, published=True, images=images, set_aside=set_aside
        )

    def _with_whitening(self, recipe: Recipe, runner: Runner, reporter: Reporter) -> Recipe:
        if recipe.whiten is None or recipe.whiten.artifact is not None:
            return recipe
        sample = sample_shards(self.plan.shards(), recipe)
        earlier = fitted(self.catalog, recipe, sample)
        if earlier is not None:
            return earlier
        raw, set_aside = self._extract(recipe.raw, sample, runner, reporter, "sample")
        if not raw:
            raise SightlineError(f"whitening has no sample: {next(iter(set_aside.values()), 'the source is empty')}")
        files = [raw[shard] for shard in sorted(raw)]
        with reporter.phase("whiten", len(files), "moments") as phase:
            moments: dict[str, Artifact] = {}
            for outcome in runner.map(MomentsTask(root=self.options.root), files):
                moments[outcome.item.id] = value_of(outcome)
                phase.advance()
            return fit_whitening(self.catalog, recipe, sample, [moments[file.id] for file in files])

    def _extract(
        self, recipe: Recipe, shards: Iterable[Shard], runner: Runner, reporter: Reporter, name: str = "extract"
    ) -> tuple[dict[str, DescriptorFile], dict[str, str]]:
        task = ExtractTask(
            root=self.options.root, location=self.options.source, recipe=recipe, options=self.options.extract
        )
        total = len(self.plan.of("add")["shard"].unique()) if name == "extract" else len(list(shards))
        done: dict[str, DescriptorFile] = {}
        set_aside: dict[str, str] = {}
        with reporter.phase(name, total) as phase:
            for outcome in runner.map(task, shards):
                if outcome.value is None:
                    set_aside[outcome.item.id] = f"{outcome.item.uri}: {outcome.error}"
                    reporter.say(f"set aside: {outcome.item.uri}: {outcome.error}")
                else:
                    done[outcome.item.id] = outcome.value
                phase.advance(outcome.value.seen if outcome.value else 0)
        return done, set_aside

    def _gate(self, rejected: int, seen: int) -> str:
        limit = self.options.max_reject_rate
        if limit is None or not seen or rejected <= limit * seen:
            return ""
        return (
            f"{rejected} of {seen} new images were rejected, more than --max-reject-rate {limit:g} allows: nothing is "
            "published; look at the rejects, or run again with a higher rate (finished shards are not redone)"
        )

    def _summary(self, recipe: Recipe, merged: commit.Merged, set_aside: dict[str, str], reporter: Reporter) -> Summary:
        images, seen, duplicates = merged.images, merged.seen, merged.duplicates
        return Summary(
            images=images,
            seen=seen,
            duplicates=duplicates,
            rejected=seen - images - duplicates,
            added=merged.added,
            removed=merged.removed,
            set_aside=tuple(sorted(set_aside)),
            seconds=dict(reporter.seconds),
            origin=extract_spec(recipe).label,
        )

    def _report(
        self,
        recipe: Recipe,
        reporter: Reporter,
        *,
        snapshot: int | None,
        published: bool,
        images: dict[str, int],
        set_aside: dict[str, str] | None = None,
    ) -> IndexReport:
        return IndexReport(
            snapshot=snapshot,
            published=published,
            recipe=recipe,
            plan=self.plan,
            images=images,
            seconds=dict(reporter.seconds),
            skipped=self.skipped,
            set_aside=set_aside or {},
        )


_COUNTS = ("seen", "indexed", "rejected", "duplicates", "added", "removed")


def _images(summary: Summary) -> dict[str, int]:
    return {
        "seen": summary.seen,
        "indexed": summary.images,
        "rejected": summary.rejected,
        "duplicates": summary.duplicates,
        "added": summary.added,
        "removed": summary.removed,
    }


def _same_source(options: IndexOptions, head: Snapshot | None) -> None:
    here = public_url(options.source).rstrip("/")
    if head is not None and head.source.rstrip("/") != here and not options.replace_source:
        raise UserError(
            public_url(options.root),
            f"indexes {head.source}, not {here}",
            "use another ROOT, or --replace-source to index this source in its place",
        )


def _store_blobs(catalog: Catalog, built: Built) -> None:
    for uri, data in built.blobs.items():
        stored = catalog.put_artifact(data, uri.rsplit("/", 1)[-1])
        assert stored.uri == uri, "artifacts are named by their digest"


if __name__ == "__main__":
    run_module("index")
