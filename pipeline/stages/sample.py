"""Seeded samples: of files and of rows, the same for any number of workers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.core.types import DescriptorFile, Floats, Ints
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.stages.fetch import readers

log = logging.getLogger(__name__)
SPREAD = 2
"""A sample is drawn from files that hold at least this many times its rows: few files, still a mixture."""


def seeded_order(seed: int, name: str) -> str:
    """Return a sort key that shuffles names the same way everywhere."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def sample_files(descriptors: pa.Table, wanted: int, seed: int) -> tuple[DescriptorFile, ...]:
    """Return the files to draw `wanted` rows from, by shard id: the first with any, in a seeded order; at least one."""
    shards = descriptors["shard_id"].to_pylist()
    counts = descriptors["rows"].to_pylist()
    order = sorted(
        (place for place, rows in enumerate(counts) if rows), key=lambda place: seeded_order(seed, shards[place])
    )
    chosen, held = [order[0]], counts[order[0]]
    for place in order[1:]:
        if held >= SPREAD * wanted:
            break
        chosen.append(place)
        held += counts[place]
    files = manifests.descriptor_files(descriptors.take(pa.array(chosen)))
    return tuple(sorted(files, key=lambda file: file.shard_id))


def sample_places(counts: Sequence[int], wanted: int, seed: int) -> list[Ints]:
    """Draw at most `wanted` places from all those of some files; return them per file, sorted."""
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    total = int(starts[-1])
    picked = np.sort(np.random.default_rng(seed).choice(total, size=min(wanted, total), replace=False))
    cuts = np.searchsorted(picked, starts)
    return [picked[a:b] - start for a, b, start in zip(cuts[:-1], cuts[1:], starts[:-1], strict=True)]


def read_sample(catalog: Catalog, files: Sequence[DescriptorFile], rows: int, seed: int) -> Floats:
    """Return `rows` vectors (rows, d) drawn without replacement from all rows of the files, in file order."""
    places = sample_places([file.rows for file in files], rows, seed)
    drawn = [(file, mine) for file, mine in zip(files, places, strict=True) if len(mine)]
    parts = []
    for (file, mine), reader in zip(drawn, readers(catalog, [file for file, _ in drawn]), strict=True):
        parts.append(reader.vectors()[mine] if 4 * len(mine) > file.rows else reader.take_vectors(mine))
    sample = finite(np.concatenate(parts))
    if not len(sample):
        raise UserError("sample", f"of {sum(map(len, parts))} vectors holds none that is finite", "index anew")
    return sample


COPIES = 2
"""A sample in float32, and its parts before they are joined, or the same rotated when an index is trained."""


def sample_bytes(rows: int, dim: int) -> int:
    """Return the bytes of memory that a sample of so many vectors takes where it is read and learned from."""
    return COPIES * np.dtype(np.float32).itemsize * rows * dim


def finite(vectors: Floats) -> Floats:
    """Return the vectors (n, d) that are finite: earlier releases stored others, which nothing can be learned from."""
    rows = np.asarray(np.isfinite(vectors).all(axis=1), np.bool_)
    if rows.all():
        return vectors
    log.warning("%d of %d sampled vectors are not finite; they are left out", len(rows) - int(rows.sum()), len(rows))
    return vectors[rows]
