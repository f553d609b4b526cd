"""The indexing job: plan, fit, extract, train, fill, commit. `sightline index` and `python -m jobs.index` run it.

Only what is new is extracted. A killed job, run again, goes on where it was: finished shards, fits, trainings and index
shards have completion records. The steps are in index_run.py; this file says what a run is and what comes out of it.
"""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from jobs._main import run_module
from jobs.estimate import estimate, run_trial
from jobs.failed import set_aside_line, withdraw_failures
from jobs.fits import drifted_indexes
from jobs.gates import Gates, replaced, selection
from jobs.index_options import IndexOptions, IndexReport, Retrain
from jobs.index_run import IndexRun, RunOptions, lists_for
from jobs.progress import Reporter
from jobs.recipe import Built, adopt, build_recipe, fit_again, stated_source_kind
from jobs.recipe_changes import Change, changes, extracted_again
from jobs.recipe_changes import lines as change_lines
from jobs.recipe_checks import Checked, check_recipe
from jobs.retry import withdraw
from jobs.runners import open_runner
from jobs.same_root import SameRoot
from jobs.source_notes import source_notes
from jobs.source_plan import Published, Sighted, plan_source
from jobs.units import skipped_words
from pipeline.core import stats
from pipeline.core.errors import UserError
from pipeline.core.names import absolute_location, full_location, public_url, same_place
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.publish.failures import Failure
from pipeline.publish.leases import Lease, hold
from pipeline.publish.lists import Lists
from pipeline.publish.plan import Plan
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Snapshot, Summary
from pipeline.run.base import Runner
from pipeline.sources._detect import detect
from pipeline.stages.computed import summed
from pipeline.stages.fill_index import lacking
from pipeline.stages.kinds import source_spec
from pipeline.stages.trial import TrialTask


def run_index(options: IndexOptions, reporter: Reporter, runner: Runner | None = None) -> IndexReport:
    """Carry out an indexing run; see the module. A runner that is given stays open, and options.runner is not used."""
    # Workers have other working folders.
    options = replace(options, source=full_location(options.source), root=full_location(options.root))
    store = open_store(options.root)
    catalog = Catalog(store)
    if options.dry_run:
        head = catalog.head()
        planned = _plan(options, catalog, head, reporter)
        report = _report(planned, reporter, snapshot=head, published=False, summary=head.summary if head else None)
        return replace(report, estimate=_estimate(options, planned, report.images["indexed"], runner))
    lease = Lease(writer=uuid.uuid4().hex[:12], operation="index")
    with hold(store, lease, options.lease) as held:
        head = catalog.head()
        catalog.require_exclusive()
        planned = _plan(options, catalog, head, reporter)
        if planned.seen.past_gate or _nothing_to_do(options, planned, head):
            if not planned.seen.past_gate:
                # What was lost from ROOT, and is given again, is stored again.
                _store_blobs(catalog, planned.built)
            return _report(planned, reporter, snapshot=head, published=False, summary=head.summary if head else None)
        if head is None and not planned.plan.count("add"):
            if planned.seen.unreadable:
                names = ", ".join(name or "the folder itself" for name in planned.seen.unreadable[:3])
                raise UserError(public_url(options.source), f"cannot be listed ({names})", "check it and its mount")
            raise UserError(
                public_url(options.source), "holds no images that match", "check the path, --match or --source-kind"
            )
        _store_blobs(catalog, planned.built)
        withdraw(catalog, planned.recipe, planned.seen.tried_again)
        withdraw_failures(catalog, planned.recipe, planned.seen.failed)
        run = IndexRun(
            options=_run_options(options, planned),
            catalog=catalog,
            head=head,
            base=planned.base,
            plan=planned.plan,
            failed=planned.seen.failed,
            lease=held,
            reporter=reporter,
            runner=SameRoot(runner or _opened(options), options.root, held),
        )
        try:
            with reporter.watched(run.runner.progress):
                snapshot = run.carry_out(planned.recipe)
        finally:
            if runner is None:
                run.runner.close()
        return _report(planned, reporter, snapshot=snapshot or catalog.head(), published=snapshot is not None, run=run)


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """What is to be done: by which recipe, from which lists, by which plan."""

    built: Built
    recipe: Recipe
    base: Lists
    plan: Plan
    gates: Gates
    seen: Sighted
    changes: tuple[Change, ...] = ()
    extracted_again: int = 0


def _plan(options: IndexOptions, catalog: Catalog, head: Snapshot | None, reporter: Reporter) -> _Planned:
    _same_source(options, head)
    before, made_by = (head.recipe, head.recipe_file) if head is not None else (None, "")
    kind = stated_source_kind(options.recipe, before) or detect(options.source, options.root)
    built = build_recipe(options.recipe, head=before, source_kind=kind, made_by=made_by)
    recipe = adopt(built.recipe, before)
    recipe = fit_again(recipe) if options.refit else recipe
    changed, again = changes(before, recipe), extracted_again(head, recipe)
    for line in change_lines(changed, again):
        reporter.say(line)
    base = lists_for(catalog, head, recipe)
    gates = _gates(options, recipe, head)
    with reporter.phase("plan"):
        published = Published(
            root=options.root,
            catalog=catalog,
            head=head,
            base=base,
            retry=options.retry_rejected,
            ignore_ctime=options.ignore_ctime,
        )
        seen = plan_source(recipe, published, gates, options.packing, reporter)
    passed = f", {skipped_words(seen.skipped, seen.skipped_by)}" if seen.skipped else ""
    reporter.say(f"plan: {seen.plan.reason}{passed}")
    for line in source_notes(seen.plan, source_spec(recipe), options.source):
        reporter.say(f"warning: {line}")
    checked = Checked(recipe=recipe, blobs=built.blobs, plan=seen.plan, base=base)
    check_recipe(checked, catalog.store, memory_bytes=options.memory_bytes)
    return _Planned(
        built=built,
        recipe=recipe,
        base=base,
        plan=seen.plan,
        gates=gates,
        seen=seen,
        changes=changed,
        extracted_again=again,
    )


def _gates(options: IndexOptions, recipe: Recipe, head: Snapshot | None) -> Gates:
    return Gates(
        source=options.source,
        max_reject_rate=options.max_reject_rate,
        max_removal_rate=options.max_removal_rate,
        max_failed_rate=options.max_failed_rate,
        allow_empty=options.allow_empty,
        meant=head is not None and replaced(options.source, options.recipe.source_kind, head),
        selects=selection(recipe, head.recipe) if head is not None else None,
    )


def _estimate(options: IndexOptions, planned: _Planned, already: int, runner: Runner | None) -> dict[str, Any]:
    """Return what the run would take; empty when there is nothing to do, or no trial is wanted."""
    if not planned.plan.count("add") or not options.trial_seconds:
        return {}
    recipe = planned.recipe
    task = TrialTask(
        root=options.root,
        location=options.source,
        recipe=recipe.raw if recipe.encode is None else recipe.local,
        options=options.extract,
        blobs=planned.built.blobs,
        seconds=options.trial_seconds,
    )
    used = runner or _opened(options)
    try:
        trial = run_trial(task, planned.plan, used)
        workers = options.runner.workers or used.room(task)
    finally:
        if runner is None:
            used.close()
    if trial is None:
        return {}
    return estimate(
        planned.plan, planned.recipe, trial, already=already, workers=workers, memory_bytes=options.memory_bytes
    )


def _opened(options: IndexOptions) -> Runner:
    return open_runner(options.runner.on(options.extract.device))


def _nothing_to_do(options: IndexOptions, planned: _Planned, head: Snapshot | None) -> bool:
    if head is None or head.recipe.fingerprint != planned.recipe.fingerprint:
        return False
    if planned.plan.count("add") or planned.plan.count("drop"):
        return False
    if lacking(planned.base, planned.recipe):
        return False
    return options.retrain == "never" or (options.retrain == "auto" and not drifted_indexes(head.fitness))


def _run_options(options: IndexOptions, planned: _Planned) -> RunOptions:
    return RunOptions(
        source=options.source,
        root=options.root,
        extract=options.extract,
        rows_per_index_shard=options.rows_per_index_shard,
        memory_bytes=options.memory_bytes,
        train_bytes=options.train_bytes,
        gates=planned.gates,
        max_read_errors=options.max_read_errors,
        retrain=options.retrain,
        refit=options.refit,
        recipe_file=planned.built.made_by,
    )


def _report(
    planned: _Planned,
    reporter: Reporter,
    *,
    snapshot: Snapshot | None,
    published: bool,
    summary: Summary | None = None,
    run: IndexRun | None = None,
) -> IndexReport:
    images = dict.fromkeys(("seen", "indexed", "rejected", "duplicates", "added", "removed"), 0)
    told = summary or (snapshot.summary if snapshot is not None else None)
    if told is not None:
        images = {name: getattr(told, "images" if name == "indexed" else name) for name in images}
    if not published:
        images.update(added=0, removed=0)
    # What containers hold is known once they are read: of those that this run read.
    inside = stats.skipped(run.stats) if run is not None else {}
    return IndexReport(
        snapshot=snapshot.version if snapshot is not None else None,
        published=published,
        recipe=snapshot.recipe if published and snapshot is not None else planned.recipe,
        plan=planned.plan if run is None else run.plan,
        images=images,
        seconds=dict(reporter.seconds),
        skipped=planned.seen.skipped + sum(inside.values()),
        skipped_by=dict(Counter(planned.seen.skipped_by) + Counter(inside)),
        changes=planned.changes,
        extracted_again=planned.extracted_again,
        warnings=tuple(run.warnings) if run is not None else (),
        set_aside=_set_aside(planned, run),
        failures=_failures(planned, run),
        past_gate=planned.seen.past_gate or (run.past_gate if run is not None else ""),
        reject_reasons=run.rejected if run is not None else (),
        unread=run.extracted.unread.listed() if run is not None else (),
        unreadable=planned.seen.unreadable,
        drifted={fit.kind: fit.drifted for fit in (snapshot.fitness if snapshot is not None else ()) if fit.drifted},
        retrained=run.retrained if run is not None else (),
        stats=stats.told(run.stats) if run is not None else {},
        computed=tuple(summed(reporter.computed)),
    )


def _failures(planned: _Planned, run: IndexRun | None) -> tuple[Failure, ...]:
    """Return the containers that are remembered to fail, by path."""
    found = [*planned.seen.failed.left.values(), *(run.failures if run is not None else ())]
    return tuple(sorted(found, key=lambda failure: failure.path))


def _set_aside(planned: _Planned, run: IndexRun | None) -> dict[str, str]:
    """Return the shards that are not indexed, and why: of this run, and those that are known to fail."""
    known = {shard: set_aside_line(failure) for shard, failure in planned.seen.failed.left.items()}
    return (run.extracted.set_aside if run is not None else {}) | known


def _same_source(options: IndexOptions, head: Snapshot | None) -> None:
    if head is not None and not options.replace_source and not same_place(head.source, options.source):
        raise UserError(
            public_url(options.root),
            f"indexes {head.source}, not {absolute_location(options.source)}",
            "use another ROOT, or --replace-source to index this source in its place",
        )


def _store_blobs(catalog: Catalog, built: Built) -> None:
    for uri, data in built.blobs.items():
        stored = catalog.put_artifact(data, uri.rsplit("/", 1)[-1])
        assert stored.uri == uri, "artifacts are named by their digest"


__all__ = ["IndexOptions", "IndexReport", "Retrain", "run_index"]


if __name__ == "__main__":
    run_module("index")
