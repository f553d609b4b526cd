"""The lists of a snapshot, read together and verified."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.core.types import Artifact
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.listing import Listing, StoredListing
from pipeline.publish.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Tables as manifests.py describes them; descriptors are sorted by id, deletions by key."""

    listing: Listing = field(default_factory=StoredListing)
    descriptors: pa.Table = field(default_factory=manifests.DESCRIPTORS.empty_table)
    indexes: pa.Table = field(default_factory=manifests.INDEXES.empty_table)
    tombstones: pa.Table = field(default_factory=manifests.TOMBSTONES.empty_table)
    deletions: pa.Table = field(default_factory=manifests.DELETIONS.empty_table)


EMPTY = Lists()


def load_lists(catalog: Catalog, snapshot: Snapshot) -> Lists:
    """Read the lists of a snapshot, verified; the listing is read when it is asked for."""

    def table(artifact: Artifact | None, schema: pa.Schema) -> pa.Table:
        if artifact is None:
            return schema.empty_table()
        return manifests.from_parquet(catalog.read(artifact), schema, artifact.uri)

    return Lists(
        listing=StoredListing(catalog, snapshot.listing),
        descriptors=table(snapshot.descriptors, manifests.DESCRIPTORS),
        indexes=table(snapshot.indexes, manifests.INDEXES),
        tombstones=table(snapshot.tombstones, manifests.TOMBSTONES),
        deletions=_deletions(catalog, snapshot.deletions),
    )


def _deletions(catalog: Catalog, artifact: Artifact | None) -> pa.Table:
    if artifact is None:
        return manifests.DELETIONS.empty_table()
    return manifests.deletion_table(catalog.read(artifact), artifact.uri)
