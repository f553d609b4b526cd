"""`sightline delete` and `restore`: take images out of the published collection by name, for good, and allow them back.

A deleted image stays out whatever the source holds, until it is restored; then the next indexing run brings it back.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jobs._main import run_module
from jobs.outcomes import find_keys
from pipeline.core.errors import UserError
from pipeline.core.storage import open_store
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import Lease, LeaseTimes, hold
from pipeline.publish.lists import load_lists
from pipeline.publish.snapshot import Snapshot
from pipeline.run.inline import InlineRunner
from pipeline.stages.commit import Proposal, transact
from pipeline.stages.edits import bury, reopened, with_deletions, without_deletions
from pipeline.stages.kinds import source_spec


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """Which images of which ROOT. missing_ok: keys that are not there are counted, not refused."""

    root: str
    keys: Sequence[str]
    missing_ok: bool = False
    lease: LeaseTimes = field(default_factory=LeaseTimes)


def delete(options: EditOptions) -> dict[str, Any]:
    """Publish a snapshot without the images; keys that are deleted already change nothing."""
    gone: dict[str, Any] = {"deleted": 0, "unknown": []}
    runner = InlineRunner()

    def derive(head: Snapshot | None) -> Proposal | None:
        assert head is not None, "a head never goes away"
        lists = load_lists(catalog, head)
        already = set(lists.deletions["key"].to_pylist())
        wanted = [key for key in dict.fromkeys(options.keys) if key not in already]
        buried = bury(lists, wanted, lambda items: find_keys(options.root, runner, items))
        if buried.unknown and not options.missing_ok:
            raise UserError(buried.unknown[0], f"is no image of snapshot {head.version}", "see the keys of a query")
        gone.update(deleted=buried.images, unknown=list(buried.unknown))
        if not buried.entries:
            return None
        deletions = with_deletions(lists.deletions, buried.entries, head.version + 1)
        counts = {"images": head.summary.images - buried.images, "seen": head.summary.seen - buried.images}
        summary = head.summary.model_copy(update={**counts, "added": 0, "removed": buried.images, "seconds": {}})
        return _proposal(head, replace(buried.lists, deletions=deletions), "delete", summary)

    catalog = Catalog(open_store(options.root))
    snapshot = _published(catalog, derive, options, "delete")
    return {**snapshot, **gone}


def restore(options: EditOptions) -> dict[str, Any]:
    """Publish a snapshot that no longer forbids the images; the next indexing run brings them back."""
    allowed: dict[str, Any] = {"restored": 0, "unknown": []}

    def derive(head: Snapshot | None) -> Proposal | None:
        assert head is not None, "a head never goes away"
        lists = load_lists(catalog, head)
        rows = {row["key"]: row["entry"] for row in lists.deletions.to_pylist()}
        entries = {key: rows[key] for key in dict.fromkeys(options.keys) if key in rows}
        unknown = [key for key in dict.fromkeys(options.keys) if key not in rows]
        if unknown and not options.missing_ok:
            raise UserError(unknown[0], "has not been deleted by name", "nothing is to be restored")
        allowed.update(restored=len(entries), unknown=unknown)
        if not entries:
            return None
        listing = reopened(lists.listing, entries.values(), packed=source_spec(head.recipe).packs)
        deletions = without_deletions(lists.deletions, entries)
        summary = head.summary.model_copy(update={"added": 0, "removed": 0, "seconds": {}})
        return _proposal(head, replace(lists, listing=listing, deletions=deletions), "restore", summary)

    catalog = Catalog(open_store(options.root))
    snapshot = _published(catalog, derive, options, "restore")
    return {**snapshot, **allowed}


def _proposal(head: Snapshot, lists: Any, operation: str, summary: Any) -> Proposal:
    return Proposal(
        lists=lists,
        recipe=head.recipe,
        source=head.source,
        summary=summary,
        operation=operation,
        fitness=head.fitness,
    )


def _published(catalog: Catalog, derive: Any, options: EditOptions, operation: str) -> dict[str, Any]:
    lease = Lease(writer=uuid.uuid4().hex[:12], operation=operation)
    with hold(catalog.store, lease, options.lease) as held:
        head = catalog.require_head()
        snapshot = transact(catalog, head, derive, writer=lease.writer, before=held.check)
        now = snapshot or catalog.require_head()
    return {"snapshot": now.version, "published": snapshot is not None, "images": now.summary.images}


if __name__ == "__main__":
    run_module("delete")
