"""Completing a shard: its files are uploaded under a writer's own name, then its record is created if there is none.

How the files are made is not known here.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.types import Artifact, DescriptorFile, DType
from pipeline.publish.catalog import Catalog


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the files of a shard hold. rows: descriptors (rows, dim); indexed, rejected, duplicates: images."""

    rows: int
    dim: int
    indexed: int
    rejected: int
    duplicates: int = 0


@dataclass(frozen=True, kw_only=True)
class ShardFiles:
    """Files of a shard on local disk; rejects: None where there are none."""

    descriptors: Path
    rejects: Path | None
    counts: Counts


def completed(catalog: Catalog, recipe_id: str, dtype: DType, shard_id: str, files: ShardFiles) -> DescriptorFile:
    """Upload and record the files; return the record that counts."""
    writer = uuid.uuid4().hex[:12]
    artifact = catalog.upload(files.descriptors, catalog.descriptor_name(recipe_id, shard_id, writer))
    rejects: Artifact | None = None
    if files.rejects is not None:
        rejects = catalog.upload(files.rejects, catalog.rejects_name(recipe_id, shard_id, writer))
    counts = files.counts
    record = DescriptorFile(
        shard_id=shard_id,
        writer=writer,
        artifact=artifact,
        rejects=rejects,
        rows=counts.rows,
        indexed=counts.indexed,
        rejected=counts.rejected,
        duplicates=counts.duplicates,
        dim=counts.dim,
        dtype=dtype,
    )
    # Another worker may have finished the same shard meanwhile: its record counts, and this file is garbage.
    return catalog.complete(catalog.record_name(recipe_id, shard_id), record)
