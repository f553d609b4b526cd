"""An indexing run as JSON and in words."""

from __future__ import annotations

from typing import Any

from jobs.estimate import lines as estimate_lines
from jobs.index import IndexReport
from jobs.output import notices
from jobs.recipe_changes import as_json as changes_json
from jobs.recipe_changes import lines as change_lines
from jobs.units import human_bytes
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
            "bytes": plan.bytes_to_read,
            "reason": plan.reason,
        },
        "skipped": report.skipped,
        "set_aside": report.set_aside,
        "past_gate": report.past_gate,
        "drifted": {kind: list(reasons) for kind, reasons in report.drifted.items()},
        "retrained": list(report.retrained),
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
        ]
    if report.past_gate:
        return [report.past_gate]
    if not report.published:
        return [f"snapshot {report.snapshot} is up to date: {report.plan.reason}"]
    return [
        f"published snapshot {report.snapshot}: {images['indexed']} images "
        f"(+{images['added']} -{images['removed']}), {images['rejected']} rejected, {images['duplicates']} duplicates",
        f"descriptor: {label}",
        *notices(label),
        *(f"warning: {line}" for line in report.warnings),
        *_unknown(report),
        *(f"retrained: {kind}" for kind in report.retrained),
        *(_drifted(kind, why) for kind, why in report.drifted.items()),
        *(f"set aside, tried again next time: {line}" for line in report.set_aside.values()),
    ]


def _drifted(kind: str, reasons: tuple[str, ...]) -> str:
    """Return a line of drift, with what mends it where no later run does by itself."""
    cure = "; `sightline index --refit` fits it again" if kind in FITS else ""
    return f"{kind} has drifted: {'; '.join(reasons)}{cure}"


def _unknown(report: IndexReport) -> list[str]:
    """Return which metadata no image had: its name, path or type may be wrong, which costs no image."""
    described = report.stats.get("images", 0)
    missing = [name for name in source_spec(report.recipe).kinds if report.stats.get(f"null_{name}") == described]
    if not described or not missing:
        return []
    return [f"note: metadata {', '.join(missing)} is null for every image described; check name and type"]
