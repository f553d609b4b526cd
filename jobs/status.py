"""`sightline status`: what a ROOT holds, its history and its sizes."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from jobs._main import run_module
from jobs.failed import as_json as failures_json
from pipeline.core.storage import open_store
from pipeline.publish import manifests, marks
from pipeline.publish.catalog import Catalog
from pipeline.publish.failures import failing
from pipeline.publish.leases import read_leases
from pipeline.publish.lists import load_lists
from pipeline.publish.snapshot import Snapshot
from pipeline.stages.deletions import named
from pipeline.stages.fit_drift import FITS
from pipeline.stages.kinds import extract_spec


def status(root: str, history: int = 20) -> dict[str, Any]:
    """Return the head, the latest snapshots, its recipe and sizes, as the JSON that scripts rely on."""
    store = open_store(root)
    catalog = Catalog(store)
    gone = marks.expired(store)
    head = catalog.require_head()
    lists = load_lists(catalog, head)
    shards = manifests.index_shards(lists.indexes)
    summary = head.summary
    descriptor_bytes = int(pc.sum(pc.struct_field(lists.descriptors["artifact"], "bytes")).as_py() or 0)
    indexes = []
    for spec in head.recipe.indexes:
        mine = [shard for shard in shards if shard.kind == spec.kind]
        indexes.append(
            {
                "kind": spec.kind,
                "shards": len(mine),
                "rows": sum(shard.rows for shard in mine),
                "bytes": sum(shard.artifact.bytes for shard in mine),
                "settings": spec.to_json(),
                "fitness": _fitness(head, spec.kind),
            }
        )
    return {
        "snapshot": head.version,
        "created_at": head.created_at,
        "source": head.source,
        "images": summary.images,
        "seen": summary.seen,
        "rejected": summary.rejected,
        "duplicates": summary.duplicates,
        "set_aside": list(summary.set_aside),
        "failed_shards": failures_json(failing(catalog, head)),
        "descriptor": extract_spec(head.recipe).label,
        "recipe": {"fingerprint": head.recipe.fingerprint, **head.recipe.model_dump(mode="json")},
        "descriptors": {
            "files": lists.descriptors.num_rows,
            "rows": manifests.total(lists.descriptors, "rows"),
            "bytes": descriptor_bytes,
        },
        "fits": {kind: fit for kind in FITS if (fit := _fitness(head, kind)) is not None},
        "tombstones": sum(len(rows) for rows in manifests.tombstones(lists.tombstones).values()),
        "indexes": indexes,
        "deleted": named(lists.deletions).num_rows,
        "tags": marks.tags(store),
        "at_work": [{"operation": lease.operation, "writer": lease.writer} for lease, _ in read_leases(store)],
        "history": [_history_row(catalog.load(version), version in gone) for version in catalog.versions()[-history:]],
    }


def _fitness(head: Snapshot, kind: str) -> dict[str, Any] | None:
    """Return how a trained index fits now and at training, and what has drifted; None for kinds without training."""
    for fit in head.fitness:
        if fit.kind == kind:
            return {
                "rows_at_training": fit.trained.rows,
                "at_training": fit.trained.values,
                "now": fit.now.values,
                "drifted": list(fit.drifted),
            }
    return None


def _history_row(snapshot: Snapshot, expired: bool) -> dict[str, Any]:
    summary = snapshot.summary
    return {
        "snapshot": snapshot.version,
        "created_at": snapshot.created_at,
        "operation": snapshot.operation,
        "expired": expired,
        "images": summary.images,
        "added": summary.added,
        "removed": summary.removed,
        "seconds": round(sum(summary.seconds.values()), 3),
        "recipe": snapshot.recipe.fingerprint[:12],
    }


if __name__ == "__main__":
    run_module("status")
