"""Commit: publish a proposal as the next snapshot; whoever loses the race derives it anew from the new head.

An operation is a function from a head to a proposal, so that the loser of a race applies what it means to do to what
the winner published. An operation that contradicts the winner raises a ConflictError that names both.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from pipeline.core.errors import ConflictError
from pipeline.core.types import Artifact
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.listing import Listing, NewListing
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Fitness, Snapshot, Summary

MAX_RACES = 200
"""Lost races before an operation gives up: each of them means that somebody else has published."""
PAUSE_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What an operation wants to publish on top of a head.

    recipe_file: digest of the recipe file that states the recipe; "" for the head's, while the recipe is the head's.
    """

    lists: Lists
    recipe: Recipe
    source: str
    summary: Summary
    operation: str = "index"
    fitness: tuple[Fitness, ...] = ()
    recipe_file: str = ""


Derive = Callable[[Snapshot | None], Proposal | None]
"""From the head to the proposal; None when nothing is left to do. May raise ConflictError."""


def transact(
    catalog: Catalog,
    head: Snapshot | None,
    derive: Derive,
    *,
    writer: str,
    before: Callable[[], None] | None = None,
) -> Snapshot | None:
    """Publish what `derive` makes of the head, again over each newer head; None when nothing was left to do.

    before: called ahead of every commit; it raises when the run may no longer publish (its lease was lost).
    """
    for lost in range(MAX_RACES):
        proposal = derive(head)
        if proposal is None:
            return None
        snapshot = stage(catalog, head, proposal, writer=writer)
        if before is not None:
            before()
        try:
            return catalog.commit(snapshot)
        except ConflictError:
            if lost == MAX_RACES - 1:
                raise
        time.sleep(random.uniform(0, PAUSE_SECONDS * min(lost + 1, 8)))  # noqa: S311 - spreads racers, no secret
        head = catalog.head()
    raise AssertionError("the last lost race is raised")


def stage(catalog: Catalog, head: Snapshot | None, proposal: Proposal, *, writer: str) -> Snapshot:
    """Write the manifests; return the snapshot that would follow the head."""
    lists = proposal.lists

    def put(table: pa.Table) -> Artifact:
        return catalog.put_manifest(manifests.to_parquet(table))

    return Snapshot(
        version=head.version + 1 if head is not None else 1,
        parent=head.version if head is not None else None,
        writer=writer,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=proposal.source,
        recipe=proposal.recipe,
        listing=_put_listing(catalog, lists.listing),
        descriptors=put(lists.descriptors),
        indexes=put(lists.indexes),
        tombstones=put(lists.tombstones),
        deletions=put(lists.deletions) if lists.deletions.num_rows else None,
        artifacts=recipe_artifacts(proposal.recipe),
        summary=proposal.summary,
        operation=proposal.operation,
        fitness=proposal.fitness,
        recipe_file=proposal.recipe_file or _recipe_file(head, proposal.recipe),
    )


def _recipe_file(head: Snapshot | None, recipe: Recipe) -> str:
    return head.recipe_file if head is not None and head.recipe.fingerprint == recipe.fingerprint else ""


def _put_listing(catalog: Catalog, listing: Listing) -> Artifact:
    if listing.artifact is not None:
        return listing.artifact
    if isinstance(listing, NewListing):
        return catalog.put_manifest_file(listing.path)
    copy = NewListing()
    for batch in listing.batches():
        copy.append(batch)
    return catalog.put_manifest_file(copy.finish().path)


def recipe_artifacts(recipe: Recipe) -> tuple[Artifact, ...]:
    """Return every stored object that a recipe names: weights, whitening, codebooks."""
    found = [value for _, value in recipe.extractor if isinstance(value, Artifact)]
    if recipe.encode is not None and recipe.encode.artifact is not None:
        found.append(recipe.encode.artifact)
    if recipe.whiten is not None and recipe.whiten.artifact is not None:
        found.append(recipe.whiten.artifact)
    return tuple(found)


def conflict(head: Snapshot, base: Snapshot | None, writer: str, why: str) -> ConflictError:
    """Return the error for a contradiction between snapshots committed since `base` and what `writer` wants."""
    since = f"snapshot {base.version}" if base is not None else "nothing"
    return ConflictError(
        f"snapshot {head.version} was committed by writer {head.writer} ({head.operation}) while writer {writer} "
        f"worked from {since}, and they contradict each other: {why}; run the same command again, finished shards "
        "are not redone"
    )
