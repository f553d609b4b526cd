"""What a run sees of its source: the plan over its listing, what could not be listed, what a gate says of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jobs.failed import Failed, as_json, known_failures
from jobs.failed import lines as failure_lines
from jobs.gates import Gates
from jobs.progress import Reporter
from jobs.reasons import in_words
from jobs.retry import Retry, rejected_before
from pipeline.core.errors import UserError
from pipeline.core.names import public_url
from pipeline.core.places import beneath, outside
from pipeline.publish.catalog import Catalog
from pipeline.publish.failures import without
from pipeline.publish.lists import Lists, load_lists
from pipeline.publish.packing import Packing
from pipeline.publish.plan import Plan, make_plan
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Snapshot
from pipeline.stages.kinds import source_spec


@dataclass(frozen=True, kw_only=True)
class Sighted:
    """The plan; the objects passed over, also by suffix; files and folders that could not be listed; why nothing may be
    published; the shards whose rejected images are tried again; what is known of containers that fail.
    """

    plan: Plan
    skipped: int
    skipped_by: dict[str, int]
    unreadable: tuple[str, ...]
    past_gate: str
    tried_again: tuple[str, ...] = ()
    failed: Failed = field(default_factory=Failed)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is published in a ROOT. base: lists that a plan starts from, which are empty for another descriptor.

    retry: which rejected images, and which containers that failed, are tried again: those whose reason contains it, ""
    for all, None for none. ignore_ctime: files of the size and modification time that they had are taken as unchanged.
    """

    root: str
    catalog: Catalog
    head: Snapshot | None
    base: Lists
    retry: str | None = None
    ignore_ctime: bool = False


def plan_source(recipe: Recipe, published: Published, gates: Gates, packing: Packing, reporter: Reporter) -> Sighted:
    """Compare the listing of the source, without what lies in ROOT, with what is published."""
    spec, location = source_spec(recipe), gates.source
    images = spec.files(location).url if spec.packs else location
    _refuse_overlap(location, images, published.root)
    source = spec.open(location)
    again = _again(published, reporter, packed=spec.packs)
    listing = outside(source.listing(), images, published.root)
    if published.ignore_ctime:
        listing = (replace(entry, changed=None) for entry in listing)
    plan = make_plan(
        listing,
        published.base.listing,
        source=public_url(location),
        packing=packing if spec.packs else None,
        unreadable=lambda: source.unreadable,
        again=again,
    )
    head = published.head
    past_gate = gates.removals(plan, load_lists(published.catalog, head)) if head is not None else ""
    failed = Failed()
    if head is not None and not spec.packs:
        failed = known_failures(published.catalog, recipe, plan, published.retry)
    for line in failure_lines(as_json(failed.left.values())):
        reporter.say(f"not tried: {line}")
    for name in source.unreadable:
        reporter.say(f"not listed: {name or location} cannot be read; what is known of it stays as it was")
    return Sighted(
        plan=without(plan, failed.left),
        skipped=source.skipped,
        skipped_by=dict(source.skipped_by),
        unreadable=tuple(source.unreadable),
        past_gate=past_gate,
        tried_again=again.shards if again is not None else (),
        failed=failed,
    )


def _again(published: Published, reporter: Reporter, *, packed: bool) -> Retry | None:
    head, base, reason = published.head, published.base, published.retry
    if head is None or reason is None:
        return None
    found = rejected_before(published.catalog, base, head.version, packed=packed, reason=reason)
    reporter.say(f"tried again: {in_words(found.reasons) or 'no image was rejected before for that reason'}")
    return found


def _refuse_overlap(location: str, images: str, root: str) -> None:
    """Refuse a ROOT that holds its own source; one beneath the source is left out of its listing."""
    if beneath(images, root) is not None:
        raise UserError(
            public_url(root),
            f"cannot hold the index of {public_url(location)}, which lies there itself",
            "give a ROOT of its own, beside SOURCE or beneath it",
        )
