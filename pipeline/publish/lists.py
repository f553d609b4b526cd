"""The four lists of a snapshot, read together and verified."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.core.types import Artifact
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Tables as manifests.py describes them; descriptors are sorted by id, the listing by path."""

    listing: pa.Table
    descriptors: pa.Table
    indexes: pa.Table
    tombstones: pa.Table


EMPTY = Lists(
    listing=manifests.LISTING.empty_table(),
    descriptors=manifests.DESCRIPTORS.empty_table(),
    indexes=manifests.INDEXES.empty_table(),
    tombstones=manifests.TOMBSTONES.empty_table(),
)


def load_lists(catalog: Catalog, snapshot: Snapshot) -> Lists:
    """Read the lists of a snapshot, verified."""

    def table(artifact: Artifact, schema: pa.Schema) -> pa.Table:
        return manifests.from_parquet(catalog.read(artifact), schema, artifact.uri)

    return Lists(
        listing=table(snapshot.listing, manifests.LISTING),
        descriptors=table(snapshot.descriptors, manifests.DESCRIPTORS),
        indexes=table(snapshot.indexes, manifests.INDEXES),
        tombstones=table(snapshot.tombstones, manifests.TOMBSTONES),
    )
