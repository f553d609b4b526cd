"""`sightline expire`: give old snapshots up and delete what nothing kept, tagged or running reaches any more."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from jobs._main import run_module
from jobs.progress import Reporter
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import SERVE, SWEEP, Lease, LeaseTimes, hold, read_leases
from pipeline.stages.expire import Retention, Sweep, plan_sweep, sweep_away


@dataclass(frozen=True, kw_only=True)
class ExpireOptions:
    """What to keep of which ROOT."""

    root: str
    retention: Retention = field(default_factory=Retention)
    dry_run: bool = False
    lease: LeaseTimes = field(default_factory=LeaseTimes)


def expire(options: ExpireOptions, reporter: Reporter) -> dict[str, Any]:
    """Decide and delete; a dry run writes nothing, and lists every object that would go."""
    catalog = Catalog(open_store(options.root))
    catalog.require_head()
    if options.dry_run:
        sweep = plan_sweep(catalog, options.retention, now=time.time())
        at_work = [f"{x.operation} by writer {x.writer}" for x, _ in read_leases(catalog.store) if x.operation != SERVE]
        return {**_told(sweep), "dry_run": True, "busy": at_work, "objects": [entry.path for entry in sweep.objects]}
    lease = Lease(writer=uuid.uuid4().hex[:12], operation=SWEEP)
    with hold(catalog.store, lease, options.lease) as held:
        sweep = plan_sweep(catalog, options.retention, now=held.put(), held=held)
        deleted = freed = 0
        with reporter.phase("expire", len(sweep.objects), "objects") as phase:
            for entry in sweep_away(catalog.store, sweep, held):
                deleted, freed = deleted + 1, freed + entry.size
                phase.advance()
    complete = deleted == len(sweep.objects) and not sweep.busy
    return {**_told(sweep), "dry_run": False, "deleted": deleted, "bytes": freed, "complete": complete}


def _told(sweep: Sweep) -> dict[str, Any]:
    return {
        "kept": list(sweep.kept),
        "expired": list(sweep.given_up),
        "deleted": len(sweep.objects),
        "bytes": sum(entry.size for entry in sweep.objects),
        "busy": list(sweep.busy),
        "unfinished": len(sweep.unfinished),
        "unlisted": sweep.unlisted,
    }


def lines(data: dict[str, Any]) -> list[str]:
    """Return the result in words."""
    kept, gone = data["kept"], data["expired"]
    would = "would be " if data["dry_run"] else ""
    told = [f"snapshots kept: {_ranges(kept)}; expired: {_ranges(gone) or 'none'}"]
    told.append(f"{data['deleted']} objects, {data['bytes'] / 1e6:.1f} MB, {would}deleted")
    if data["unfinished"]:
        told.append(f"of these, {data['unfinished']} unfinished files or uploads of killed writers")
    if data["unlisted"]:
        told.append(f"unfinished uploads could not be listed: {data['unlisted']}")
    told += [f"  {path}" for path in data.get("objects", ())]
    told += [f"at work: {line}; what it may take up stays, run this again later" for line in data["busy"]]
    return told


def _ranges(versions: list[int]) -> str:
    runs: list[list[int]] = []
    for version in versions:
        if runs and runs[-1][1] == version - 1:
            runs[-1][1] = version
        else:
            runs.append([version, version])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


if __name__ == "__main__":
    run_module("expire")
