"""An indexing run as JSON and in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jobs.estimate import lines as estimate_lines
from jobs.failed import as_json as failures_json
from jobs.failed import lines as failure_lines
from jobs.index import IndexReport
from jobs.output import notices
from jobs.reasons import SHOWN
from jobs.reasons import as_json as reasons_json
from jobs.recipe_changes import as_json as changes_json
from jobs.recipe_changes import lines as change_lines
from jobs.units import human_bytes, skipped_words
from pipeline.core.stats import devices
from pipeline.stages.computed import Computed
from pipeline.stages.fit_drift import FITS
from pipeline.stages.kinds import extract_spec, source_spec


def index_json(report: IndexReport) -> dict[str, Any]:
    """Return the JSON of an indexing run."""
    plan = report.plan
    return {
        "snapshot": report.snapshot,
        "published": report.published,
        "images": report.images,
        "seconds": round(sum(report.seconds.values()), 3),
        "phases": report.seconds,
        "stats": report.stats,
        "estimate": report.estimate,
        "descriptor": extract_spec(report.recipe).label,
        "recipe": report.recipe.fingerprint,
        "recipe_changes": changes_json(report.changes),
        "extracted_again": report.extracted_again,
        "warnings": list(report.warnings),
        "plan": {
            "add": plan.count("add"),
            "keep": plan.count("keep"),
            "drop": plan.count("drop"),
            "renew": plan.count("renew"),
            "bytes": plan.bytes_to_read,
            "reason": plan.reason,
        },
        "skipped": report.skipped,
        "skipped_by": report.skipped_by,
        "set_aside": report.set_aside,
        "failed_shards": failures_json(report.failures),
        "past_gate": report.past_gate,
        "reject_reasons": reasons_json(report.reject_reasons),
        "unread": reasons_json(report.unread),
        "unreadable": list(report.unreadable),
        "drifted": {kind: list(reasons) for kind, reasons in report.drifted.items()},
        "retrained": list(report.retrained),
        "computed": [asdict(part) for part in report.computed],
    }


def index_lines(report: IndexReport, *, dry_run: bool) -> list[str]:
    """Return an indexing run in words."""
    images = report.images
    label = extract_spec(report.recipe).label
    if dry_run:
        plan = report.plan
        shards = plan.new_shards
        return [
            f"would extract {plan.count('add')} entries in {shards} shards ({human_bytes(plan.bytes_to_read)}), "
            f"keep {plan.count('keep')}, drop {plan.count('drop')}: {plan.reason}",
            f"descriptor: {label}; indexes: {', '.join(spec.kind for spec in report.recipe.indexes)}",
            *change_lines(report.changes, report.extracted_again),
            *(estimate_lines(report.estimate) if report.estimate else ()),
            *notices(label),
            *([report.past_gate] if report.past_gate else ()),
            *failure_lines(failures_json(report.failures)),
            *_unlisted(report),
        ]
    if report.past_gate:
        return [report.past_gate, *_troubles(report)]
    if not report.published:
        return [f"snapshot {report.snapshot} is up to date: {report.plan.reason}", *_troubles(report)]
    return [
        f"published snapshot {report.snapshot}: {images['indexed']} images "
        f"(+{images['added']} -{images['removed']}), {images['rejected']} rejected, {images['duplicates']} duplicates"
        + (f", {skipped_words(report.skipped, report.skipped_by)}" if report.skipped else ""),
        f"descriptor: {label}",
        *_devices(report),
        *notices(label),
        *(f"warning: {line}" for line in report.warnings),
        *_unknown(report),
        *(f"retrained: {kind}" for kind in report.retrained),
        *(_computed(part) for part in report.computed if part.device != "cpu"),
        *(_drifted(kind, why) for kind, why in report.drifted.items()),
        *(f"rejected: {reason}" for reason in report.reject_reasons[:SHOWN]),
        *_troubles(report),
    ]


def _computed(part: Computed) -> str:
    done = {"train": "trained", "fill": "filled"}[part.phase]
    return f"{done} {part.kind} on {part.device}: {part.rows} vectors in {part.seconds:.1f} s"


def _devices(report: IndexReport) -> list[str]:
    """Return on what shards were described."""
    named = [f"{name} ({count} shards)" for name, count in devices(report.stats).items()]
    return [f"device: {', '.join(named)}"] if named else []


def _drifted(kind: str, reasons: tuple[str, ...]) -> str:
    """Return a line of drift, with what mends it where no later run does by itself."""
    cure = "; `sightline index --refit` fits it again" if kind in FITS else ""
    return f"{kind} has drifted: {'; '.join(reasons)}{cure}"


def _troubles(report: IndexReport) -> list[str]:
    """Return what is not indexed as it should be: what the next run tries again, and what it does not."""
    remembered = {failure.shard_id for failure in report.failures}
    others = [line for shard, line in report.set_aside.items() if shard not in remembered]
    return [
        *(f"not read, tried again next time: {reason}" for reason in report.unread[:SHOWN]),
        *(f"set aside, tried again next time: {line}" for line in others),
        *failure_lines(failures_json(report.failures)),
        *_unlisted(report),
    ]


def _unlisted(report: IndexReport) -> list[str]:
    return [f"not listed, left as it was: {name}" for name in report.unreadable]


def _unknown(report: IndexReport) -> list[str]:
    """Return which metadata most images had none of: its name, path or type may be wrong, which costs no image."""
    described = report.stats.get("images", 0) + report.stats.get("reused", 0)
    nulls = {name: report.stats.get(f"null_{name}", 0) for name in source_spec(report.recipe).kinds}
    never = [name for name, count in nulls.items() if described and count == described]
    mostly = [f"{name} ({nulls[name]:.0f})" for name in nulls if described / 2 < nulls[name] < described]
    notes = []
    if never:
        notes.append(f"note: metadata {', '.join(never)} is null for every image described; check name and type")
    if mostly:
        notes.append(
            f"note: metadata {', '.join(mostly)} is null for most of the {described:.0f} images described; check its "
            "type, and that side members are named after their images"
        )
    return notes
