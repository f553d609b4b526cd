"""The values that travel between the parts: frozen, keyword-only, no behaviour beyond their own invariants.

Dataclasses live inside one process; pydantic `Record`s cross a file. Snapshot, Recipe and Plan live in
pipeline/publish, beside the functions that make them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
DType = Literal["float16", "float32"]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, order=True)
class Entry:
    """One object of a listing. `path` is relative to the store's root; `etag` changes when the bytes do.

    modified: seconds since the epoch by the store's own clock; no part of what an entry is.
    """

    path: str
    size: int
    etag: str
    modified: float = field(default=0.0, compare=False)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The unit of work, of failure and of completion.

    id: hash of where the bytes lie and of their etags. uri: the shard's own location, or SOURCE for packed files.
    entries: the file that is the shard, or the files packed into it. bytes: their total size.
    """

    id: str
    uri: str
    bytes: int
    etag: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Image:
    """Encoded bytes of one image and the names it goes by; lives inside a worker only."""

    key: str
    uri: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Reject:
    """An image that was seen and not indexed. status tells why it is here; bytes is its encoded size."""

    key: str
    uri: str
    reason: str
    bytes: int
    status: Literal["rejected", "duplicate"] = "rejected"


@dataclass(frozen=True, kw_only=True)
class DescriptorBatch:
    """Descriptors of n images: vectors (m, d) float32; image_row (m,) int64 says which image each row is of.

    A global descriptor has m = n and image_row = 0..n-1. Local descriptors add boxes (m, 4) as x0, y0, x1, y1 in
    pixels of the original image, and scores (m,).
    """

    vectors: Floats
    image_row: Ints
    boxes: Floats | None = None
    scores: Floats | None = None


class Record(BaseModel):
    """Base of the values that are written to a file: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(Record):
    """A stored object named with its digest. uri is relative to the ROOT it lies in."""

    uri: str
    sha256: str
    bytes: int


class DescriptorFile(Record):
    """Completion record of a shard: one descriptor Parquet file, and one of rejects when there are any.

    rows counts descriptors (== indexed images for a global descriptor). seen == indexed + rejected + duplicates.
    """

    shard_id: str
    writer: str
    artifact: Artifact
    rejects: Artifact | None = None
    rows: int
    indexed: int
    rejected: int
    duplicates: int
    dim: int
    dtype: DType

    @property
    def id(self) -> str:
        """Name of the file's content, unique for ever: shard and writer."""
        return f"{self.shard_id}-{self.writer}"

    @property
    def seen(self) -> int:
        """Images that the shard held."""
        return self.indexed + self.rejected + self.duplicates


class IndexShard(Record):
    """One searchable file over an ordered list of descriptor files.

    A faiss id is position << 32 | row: `position` indexes `files` (ids of DescriptorFiles), `row` a row there.
    """

    kind: str
    fingerprint: str
    trained: Artifact
    artifact: Artifact
    rows: int
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[T, R]):
    """What became of one item of work; errors are values when they cross a process border. stats: see core/stats.py."""

    item: T
    value: R | None
    error: str | None = None
    seconds: float = 0.0
    attempts: int = 1
    stats: dict[str, float] = field(default_factory=dict)


def row_ids(position: int, rows: int) -> Ints:
    """Return the faiss ids (rows,) of the descriptor file at `position` of an index shard."""
    assert 0 <= position < 1 << 31, "position must fit the upper half of an int64"
    assert 0 <= rows <= 1 << 32, "rows must fit the lower half of an int64"
    return (np.int64(position) << np.int64(32)) + np.arange(rows, dtype=np.int64)


def split_ids(ids: Ints) -> tuple[Ints, Ints]:
    """Return (position, row) of faiss ids; the inverse of `row_ids`. Negative ids (no result) are not allowed."""
    return ids >> 32, ids & 0xFFFFFFFF


def chunked(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Cut a sequence into runs of `size`; the last one may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def as_json(value: BaseModel) -> dict[str, Any]:
    """Return a record as plain JSON types."""
    return value.model_dump(mode="json")
