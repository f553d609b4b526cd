"""`sightline rollback` and `tag`: go back to an older snapshot by publishing it anew; keep a snapshot for good."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jobs._main import run_module
from jobs.outcomes import find_keys
from pipeline.core.errors import UserError
from pipeline.core.storage import open_store
from pipeline.publish import marks
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import Lease, LeaseTimes, hold
from pipeline.publish.lists import load_lists
from pipeline.publish.snapshot import Snapshot
from pipeline.run.inline import InlineRunner
from pipeline.stages.commit import Proposal, conflict, transact
from pipeline.stages.edits import roll_back
from pipeline.stages.kinds import source_spec


@dataclass(frozen=True, kw_only=True)
class RollbackOptions:
    """Which snapshot of ROOT is to be the head again."""

    root: str
    version: int
    lease: LeaseTimes = field(default_factory=LeaseTimes)


def rollback(options: RollbackOptions) -> dict[str, Any]:
    """Publish an older snapshot's content as the next one. What was deleted by name since then stays deleted."""
    catalog = Catalog(open_store(options.root))
    lease = Lease(writer=uuid.uuid4().hex[:12], operation="rollback", versions=(options.version,))
    with hold(catalog.store, lease, options.lease) as held:
        base = catalog.require_head()
        if options.version == base.version:
            raise UserError(f"snapshot {options.version}", "is the head", "there is nothing to go back to")
        target = catalog.load_kept(options.version)

        def derive(head: Snapshot | None) -> Proposal:
            assert head is not None, "a head never goes away"
            if head.version != base.version:
                raise conflict(head, base, lease.writer, "a rollback would undo it")
            return _proposal(catalog, head, target, options.root)

        snapshot = transact(catalog, base, derive, writer=lease.writer, before=held.check)
        assert snapshot is not None, "a rollback always has something to publish"
    return {"snapshot": snapshot.version, "content_of": target.version, "images": snapshot.summary.images}


def _proposal(catalog: Catalog, head: Snapshot, target: Snapshot, root: str) -> Proposal:
    source = source_spec(target.recipe)
    find = partial(find_keys, root, InlineRunner())
    then, now = load_lists(catalog, target), load_lists(catalog, head)
    back = roll_back(then, now, find, source.key_is_row, packed=source.packs)
    counts = {"images": target.summary.images - back.images, "seen": target.summary.seen - back.images}
    return Proposal(
        lists=back.lists,
        recipe=target.recipe,
        source=target.source,
        summary=target.summary.model_copy(update={**counts, "added": 0, "removed": 0, "seconds": {}}),
        operation="rollback",
        fitness=target.fitness,
    )


@dataclass(frozen=True, kw_only=True)
class TagOptions:
    """A name for a snapshot (None: the head), or to be taken away."""

    root: str
    name: str
    version: int | None = None
    delete: bool = False
    lease: LeaseTimes = field(default_factory=LeaseTimes)


def tag(options: TagOptions) -> dict[str, Any]:
    """Name a snapshot, so that it is never expired, or take the name away."""
    catalog = Catalog(open_store(options.root))
    if options.delete:
        marks.delete_tag(catalog.store, options.name)
        return {"tag": options.name, "deleted": True}
    version = catalog.require_head().version if options.version is None else options.version
    lease = Lease(writer=uuid.uuid4().hex[:12], operation="tag", versions=(version,))
    with hold(catalog.store, lease, options.lease):
        catalog.load_kept(version)
        marks.put_tag(catalog.store, options.name, version)
    return {"tag": options.name, "snapshot": version}


if __name__ == "__main__":
    run_module("rollback")
