"""Gates: what a run refuses to publish unless it is told to. Each says in one line why, and how to open it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from jobs.extraction import Extracted
from jobs.reasons import Reason, in_words
from pipeline.core.names import public_url, same_place
from pipeline.publish import manifests
from pipeline.publish.lists import Lists
from pipeline.publish.plan import Plan
from pipeline.publish.recipe import Recipe
from pipeline.publish.removals import removals
from pipeline.publish.snapshot import Snapshot
from pipeline.stages.kinds import source_spec

LEAST_REMOVED = 100
"""Up to so many images may be removed at once whatever share of the collection they are."""
LEAST_FAILED = 10
"""Up to so many shards may fail whatever share of the run's they are."""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Bounds of a run. max_reject_rate: share of its images that may be rejected; None: any.

    max_removal_rate: share of the published images that may be removed at once, beyond LEAST_REMOVED.
    max_failed_rate: share of the run's shards that may fail or not be tried, beyond LEAST_FAILED. allow_empty: a source
    that was not empty may be empty now. meant: the source is replaced on purpose, so that removals are not bounded.
    selects: tells of a path whether the recipe selects it, where that has changed; what it no longer selects is removed
    on purpose too.
    """

    source: str
    max_reject_rate: float | None = None
    max_removal_rate: float = 0.2
    max_failed_rate: float = 0.05
    allow_empty: bool = False
    meant: bool = False
    selects: Callable[[str], bool] | None = None

    def rejects(self, files: pa.Table, reasons: Sequence[Reason]) -> str:
        """Return why so many rejects are not published; "" when they may be. files: what the run extracted."""
        rejected, limit = manifests.total(files, "rejected"), self.max_reject_rate
        seen = sum(manifests.total(files, name) for name in ("indexed", "rejected", "duplicates"))
        if limit is None or not seen or rejected <= limit * seen:
            return ""
        return (
            f"{rejected} of {seen} new images were rejected ({in_words(reasons)}), more than --max-reject-rate "
            f"{limit:g} allows: nothing is published; run again with a higher rate (finished shards are not redone)"
        )

    def failures(self, found: Extracted) -> str:
        """Return why a run of which so many shards failed is not published; "" when it may be."""
        failed = len(found.set_aside) + len(found.not_tried)
        total = failed + found.files.num_rows
        if failed <= LEAST_FAILED or failed <= self.max_failed_rate * total:
            return ""
        first = next(iter(found.set_aside.values()), "not tried")
        return (
            f"{failed} of {total} shards failed (e.g. {first}), more than --max-failed-rate {self.max_failed_rate:g} "
            "allows: nothing is published; mend what they have in common and run again, or run again with a higher "
            "rate (1 allows all); finished shards are not redone"
        )

    def removals(self, plan: Plan, head: Lists) -> str:
        """Return why a plan that removes so much is not carried out; "" when it may be.

        Counts images: those of the shards that are not listed any more, or the files themselves where they are packed.
        """
        selects = self.selects
        found = removals(plan, head.listing, None if selects is None else lambda path: not selects(path))
        if found.known and not found.present:
            return "" if self.allow_empty else self._empty(found.known)
        if plan.packed:
            removed, total = found.entries, found.known
        else:
            left = head.descriptors.filter(manifests.among(head.descriptors["shard_id"], found.shards))
            removed, total = manifests.total(left, "indexed"), manifests.total(head.descriptors, "indexed")
        return self._removed(removed, total, "are no longer in the source")

    def losses(self, before: int, now: int) -> str:
        """Return why a collection that would shrink so much is not published; "" when it may be. Counts images.

        What a plan cannot foresee shows here: changed containers that hold less, images that are rejected or unread.
        """
        if self.selects is not None or (self.allow_empty and not now):
            return ""
        return self._removed(before - now, before, "would be lost")

    def _removed(self, removed: int, total: int, what: str) -> str:
        if self.meant or removed <= LEAST_REMOVED or removed <= self.max_removal_rate * total:
            return ""
        return (
            f"{self._shown}: {removed} of {total} published images {what}, more than --max-removal-rate "
            f"{self.max_removal_rate:g} allows: nothing is published; see that the source is complete, or run again "
            "with a higher rate (1 allows all)"
        )

    def _empty(self, known: int) -> str:
        return (
            f"{self._shown}: holds no images that match, where {known} entries are published: nothing is changed; see "
            "that it is mounted and that the path is right, or use --allow-empty"
        )

    @property
    def _shown(self) -> str:
        return public_url(self.source)


def selection(recipe: Recipe, head: Recipe) -> Callable[[str], bool] | None:
    """Return what tells whether a changed recipe still selects a path; None when it selects as the head's does."""
    source, before = source_spec(recipe), source_spec(head)
    if source.kind != before.kind or source.match == before.match:
        return None
    if source.match:
        return lambda path: fnmatch.fnmatchcase(path, source.match)
    return source.wants


def replaced(source: str, kind: str | None, head: Snapshot) -> bool:
    """Tell whether a run replaces the source on purpose: another location, or another kind that was given."""
    return not same_place(head.source, source) or kind not in (None, head.recipe.source.kind)
