"""`sightline verify --repair`: gives up what is broken, so that the next indexing run makes it again from the source.

Completion records of broken work go first, and records that its shards failed, then the broken objects, then one commit
leaves out the shards concerned and their entries. Each step may be repeated, so a repair that was killed is run again.
What comes from no source (weights, the listing) is named with what to do.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.progress import Reporter
from jobs.recipe_weights import is_weight_file
from jobs.verify import Verified, check
from pipeline.core.errors import UserError
from pipeline.core.storage import open_store
from pipeline.core.types import Artifact, IndexShard
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.leases import SERVE, SWEEP, Held, Lease, LeaseTimes, hold, live_leases
from pipeline.publish.listing import Listing, NewListing
from pipeline.publish.lists import Lists, load_lists
from pipeline.publish.snapshot import Snapshot
from pipeline.stages.commit import Proposal, transact
from pipeline.stages.merge import live_images, pruned


@dataclass(frozen=True, kw_only=True)
class RepairOptions:
    """Which ROOT."""

    root: str
    lease: LeaseTimes = field(default_factory=LeaseTimes)


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What a repair gave up. snapshot: the head now. left: what it could not mend, and what to do, a line each."""

    snapshot: int
    published: bool
    images: int = 0
    shards: int = 0
    index_shards: int = 0
    left: tuple[str, ...] = ()


def repair(options: RepairOptions, reporter: Reporter) -> tuple[Verified, Repaired]:
    """Verify the head and publish it without what is broken; UserError while other work is under way."""
    catalog = Catalog(open_store(options.root))
    lease = Lease(writer=uuid.uuid4().hex[:12], operation="repair")
    with hold(catalog.store, lease, options.lease) as held:
        _require_alone(catalog, held)
        head = catalog.require_head()
        verified, broken = check(catalog, head, reporter)
        left = _left(head, broken)
        if not broken or head.listing.uri in broken:
            return verified, Repaired(snapshot=head.version, published=False, left=left)
        _discard(catalog, head, broken)
        counts: dict[str, int] = {}

        def derive(head: Snapshot | None) -> Proposal | None:
            assert head is not None, "a head never goes away"
            before = load_lists(catalog, head)
            lists = _without(before, broken)
            proposal = _proposal(head, lists)
            counts["images"] = head.summary.images - proposal.summary.images
            counts["shards"] = before.descriptors.num_rows - lists.descriptors.num_rows
            counts["index_shards"] = before.indexes.num_rows - lists.indexes.num_rows
            return proposal if counts["shards"] or counts["index_shards"] else None

        snapshot = transact(catalog, head, derive, writer=lease.writer, before=held.check)
        now = snapshot or catalog.require_head()
    return verified, Repaired(snapshot=now.version, published=snapshot is not None, left=left, **counts)


def lines(repaired: Repaired) -> list[str]:
    """Return what a repair did, in words."""
    said = list(repaired.left)
    if repaired.published:
        said.append(
            f"published snapshot {repaired.snapshot} without {repaired.shards} descriptor files "
            f"({repaired.images} images) and {repaired.index_shards} index shards: `sightline index` makes them again"
        )
    return said


def _require_alone(catalog: Catalog, held: Held) -> None:
    """Refuse while another operation may rely on a completion record that a repair would delete."""
    leases = live_leases(catalog.store, now=held.put(), times=held.times)
    others = [lease for lease in leases if lease.writer != held.lease.writer]
    working = sorted(lease.operation for lease in others if lease.operation not in (SWEEP, SERVE))
    if working:
        raise UserError(catalog.shown, f"is in use by {', '.join(working)}", "repair it when that has ended")


def _discard(catalog: Catalog, head: Snapshot, broken: Collection[str]) -> None:
    """Delete the completion records of what is broken, then its objects: the same names are written again."""
    store, lists = catalog.store, load_lists(catalog, head)
    faulty = lists.descriptors.filter(_broken_files(lists, broken))
    names = []
    for file in manifests.descriptor_files(faulty):
        folders = {head.recipe.descriptor_id, file.artifact.uri.split("/")[1]}
        names += [catalog.record_name(folder, file.shard_id) for folder in folders]
        names.append(catalog.failure_name(head.recipe.source_id, file.shard_id))
    for folder in sorted(set(lists.indexes["fingerprint"].to_pylist())):
        for entry in store.list(f"indexes/{folder}"):
            shard = catalog.record(entry.path, IndexShard) if entry.path.endswith(".json") else None
            if shard is not None and {shard.artifact.uri, shard.trained.uri} & set(broken):
                names.append(entry.path)
    for entry in store.list("artifacts/records"):
        artifact = catalog.record(entry.path, Artifact)
        if artifact is not None and artifact.uri in broken:
            names.append(entry.path)
    for name in names + [uri for uri in broken if not uri.startswith("manifests/")]:
        store.delete(name)


def _broken_files(lists: Lists, broken: Collection[str]) -> pa.Array:
    uris, files = set(broken), manifests.descriptor_files(lists.descriptors)
    found = [f.artifact.uri in uris or (f.rejects is not None and f.rejects.uri in uris) for f in files]
    return pa.array(found, pa.bool_())


def _without(lists: Lists, broken: Collection[str]) -> Lists:
    """Return the lists without the shards whose files are broken, their entries, and the broken index shards."""
    at = _broken_files(lists, broken)
    lost, uris = lists.descriptors.filter(at), set(broken)
    shards = manifests.index_shards(lists.indexes)
    stays = [shard for shard in shards if not {shard.artifact.uri, shard.trained.uri} & uris]
    indexes = manifests.index_table(stays)
    if not lost.num_rows:
        return pruned(replace(lists, indexes=indexes))
    whole = zip(lost["id"].to_pylist(), lost["indexed"].to_pylist(), strict=True)
    dead = {name: np.arange(images, dtype=np.int64) for name, images in whole}
    return pruned(
        replace(
            lists,
            listing=_listed(lists.listing, lost["shard_id"]),
            descriptors=lists.descriptors.filter(pc.invert(at)),
            indexes=indexes,
            tombstones=manifests.tombstone_table(manifests.united(manifests.tombstones(lists.tombstones), dead)),
        )
    )


def _listed(listing: Listing, lost: pa.ChunkedArray) -> NewListing:
    new = NewListing()
    for batch in listing.batches():
        new.append(batch.filter(pc.invert(manifests.among(batch["shard"], lost))))
    return new.finish()


def _proposal(head: Snapshot, lists: Lists) -> Proposal:
    images = live_images(lists.descriptors, lists.tombstones)
    rejected, duplicates = (manifests.total(lists.descriptors, name) for name in ("rejected", "duplicates"))
    summary = head.summary.model_copy(
        update={
            "images": images,
            "seen": images + rejected + duplicates,
            "rejected": rejected,
            "duplicates": duplicates,
            "added": 0,
            "removed": head.summary.images - images,
            "seconds": {},
        }
    )
    return Proposal(
        lists=lists,
        recipe=head.recipe,
        source=head.source,
        summary=summary,
        operation="repair",
        fitness=head.fitness,
    )


def _left(head: Snapshot, broken: Collection[str]) -> tuple[str, ...]:
    """Return what an indexing run does not make again by itself, and what to do."""
    fits = {
        spec.artifact.uri: (what, option)
        for what, option, spec in (("whitening", "--whiten", head.recipe.whiten), ("codebook", "", head.recipe.encode))
        if spec is not None and spec.artifact is not None
    }
    said = []
    if head.listing.uri in broken:
        said.append(f"{head.listing.uri} is the listing: publish an older snapshot with `sightline rollback`")
    for artifact in head.artifacts:
        if artifact.uri not in broken:
            continue
        what, option = fits.get(artifact.uri, ("weights", "--weights"))
        spec = head.recipe.whiten if what == "whitening" else None
        if what == "codebook" or (spec is not None and spec.method != "file"):
            how = "`sightline index --refit` makes it again"
        elif what == "weights" and not is_weight_file(str(getattr(head.recipe.extractor, "origin", ""))):
            how = "restore it from a copy of this ROOT, or from another one with the same weights"
        else:
            how = f"`sightline index {option} FILE` stores it again"
        said.append(f"{artifact.uri} is the {what} of the recipe: {how}")
    return tuple(said)
