"""`sightline delete` and `restore`: take images out of the published collection by name, for good, and allow them back.

A deleted image stays out whatever the source holds, and under whatever key it comes, until it is restored; then the
next indexing run brings it back. The rule is in pipeline/stages/deletions.py.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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
from pipeline.stages.deletions import BY_CONTENT, rule_of, with_deletions, without_deletions
from pipeline.stages.edits import bury, reopened
from pipeline.stages.kinds import source_spec

SHOWN = 5
"""Keys of copies that a line names."""


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """Which images of which ROOT. missing_ok: keys that are not there are counted, not refused.

    copies: delete all other images of equal content as well; `restore` takes no notice of it.
    """

    root: str
    keys: Sequence[str]
    missing_ok: bool = False
    copies: bool = False
    lease: LeaseTimes = field(default_factory=LeaseTimes)


def delete(options: EditOptions) -> dict[str, Any]:
    """Publish a snapshot without the images; keys that are deleted already change nothing.

    In the result: by_content, the keys that are row numbers, whose deletions hold by content only; copies, per key the
    other live keys of an equal image, which stay.
    """
    gone: dict[str, Any] = {}
    find = partial(find_keys, options.root, InlineRunner())

    def derive(head: Snapshot | None) -> Proposal | None:
        assert head is not None, "a head never goes away"
        lists = load_lists(catalog, head)
        is_row = source_spec(head.recipe).key_is_row
        already = rule_of(lists.deletions, is_row).by_key
        wanted = [key for key in dict.fromkeys(options.keys) if key not in already]
        buried = bury(lists, wanted, find, is_row, copies=options.copies)
        if buried.unknown and not options.missing_ok:
            raise UserError(buried.unknown[0], f"is no image of snapshot {head.version}", "see the keys of a query")
        by_content = [row["key"] for row in buried.deletions if row["scope"] == BY_CONTENT]
        gone.update(deleted=buried.images, unknown=list(buried.unknown), by_content=by_content, copies=buried.copies)
        if not buried.deletions:
            return None
        new = ({**row, "version": head.version + 1} for row in buried.deletions)
        deletions = with_deletions(lists.deletions, new)
        counts = {"images": head.summary.images - buried.images, "seen": head.summary.seen - buried.images}
        summary = head.summary.model_copy(update={**counts, "added": 0, "removed": buried.images, "seconds": {}})
        return _proposal(head, replace(buried.lists, deletions=deletions), "delete", summary)

    catalog = Catalog(open_store(options.root))
    snapshot = _published(catalog, derive, options, "delete")
    return {**snapshot, **gone}


def notes(data: dict[str, Any]) -> list[str]:
    """Return what a user should know of a deletion, a line each."""
    lines = [
        f"{key} is a row number, which another image may have later: the deletion holds by content, not by key"
        for key in data["by_content"]
    ]
    for key, others in data["copies"].items():
        shown = ", ".join(others[:SHOWN]) + (", ..." if len(others) > SHOWN else "")
        lines.append(f"{key}: also under {len(others)} other keys, which stay ({shown}); --copies deletes them, too")
    return lines


def restore(options: EditOptions) -> dict[str, Any]:
    """Publish a snapshot that no longer forbids the images; the next indexing run brings them back.

    Also takes keys of images that are deleted by content only: they are allowed from then on.
    """
    allowed: dict[str, Any] = {"restored": 0, "unknown": []}

    def derive(head: Snapshot | None) -> Proposal | None:
        assert head is not None, "a head never goes away"
        lists = load_lists(catalog, head)
        known = set(lists.deletions["key"].to_pylist())
        keys = [key for key in dict.fromkeys(options.keys) if key in known]
        unknown = [key for key in dict.fromkeys(options.keys) if key not in known]
        if unknown and not options.missing_ok:
            raise UserError(unknown[0], "has not been deleted by name", "nothing is to be restored")
        allowed.update(restored=len(keys), unknown=unknown)
        if not keys:
            return None
        deletions, entries = without_deletions(lists.deletions, keys)
        listing = reopened(lists.listing, entries, packed=source_spec(head.recipe).packs)
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
