"""The values that travel between the parts: frozen, keyword-only, no behaviour beyond their own invariants.

Dataclasses live inside one process; pydantic `Record`s cross a file. Snapshot, Recipe and Plan live in
pipeline/publish, beside the functions that make them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pipeline.core.metadata import Value

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
DType = Literal["float16", "float32", "binary"]
"""How vectors are stored; binary: one bit per dimension, its sign."""
MISSING = "missing"
"""Etag of a file that a list names and that is not there: it stays an entry, and becomes a reject with that reason."""
Span = tuple[int, int]
"""Where bytes lie in a file: the offset of the first, and how many there are."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, order=True)
class Entry:
    """One object of a listing. `path` is relative to the store's root; `etag` changes when the bytes do.

    modified: seconds since the epoch by the store's own clock; no part of what an entry is.
    changed: when bytes or attributes of a local file last changed, as its file system says (ctime, in ns); None where
    nothing says it. Unlike the times in an etag it cannot be set. It is no part of what an entry is either.
    """

    path: str
    size: int
    etag: str
    modified: float = field(default=0.0, compare=False)
    changed: int | None = field(default=None, compare=False)


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
    """Encoded bytes of one image and the names it goes by; lives inside a worker only.

    metadata: by column, or none; what lies further on in its container may be added until the shard has been read to
    its end. span: where the bytes lie in the container, if they lie there as they are.
    """

    key: str
    uri: str
    data: bytes = field(repr=False)
    metadata: Mapping[str, Value] = field(default_factory=dict, repr=False)
    span: Span | None = None


@dataclass(frozen=True, kw_only=True)
class Reject:
    """An image that was seen and not indexed. status tells why it is here; bytes is its encoded size.

    unread: it could not be read now, for a reason of the place or of this machine. That is no property of the image: it
    is never recorded, and a later run tries it again.
    "skipped": a picture of a format that is not read, or a file of the system, inside a container; `reason` is its
    suffix or "system". It is counted, and not recorded.
    sha256: of its bytes (hex), where they were read; "" in files of older releases.
    """

    key: str
    uri: str
    reason: str
    bytes: int
    status: Literal["rejected", "duplicate", "unread", "skipped"] = "rejected"
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class DescriptorBatch:
    """Descriptors of n images: vectors (m, d) float32; image_row (m,) int64, ascending: which image each row is of.

    A global descriptor has m = n and image_row = 0..n-1. Local descriptors, any number per image, add boxes (m, 4) as
    x0, y0, x1, y1 in pixels of the original image, scales (m,) and scores (m,), larger is better. local: the local
    descriptors of the same images that global ones were made of, where they are kept.
    """

    vectors: Floats
    image_row: Ints
    boxes: Floats | None = None
    scales: Floats | None = None
    scores: Floats | None = None
    local: DescriptorBatch | None = None

    @classmethod
    def of_images(cls, vectors: Floats) -> Self:
        """Return a global descriptor's batch: one vector per image."""
        return cls(vectors=vectors, image_row=np.arange(len(vectors), dtype=np.int64))

    @property
    def is_local(self) -> bool:
        """Whether these are local descriptors."""
        return self.boxes is not None

    def of(self, image: int) -> DescriptorBatch:
        """Return the rows of one image, which becomes image 0."""
        start, end = np.searchsorted(self.image_row, (image, image + 1))
        part = slice(int(start), int(end))
        return DescriptorBatch(
            vectors=self.vectors[part],
            image_row=np.zeros(int(end - start), np.int64),
            boxes=None if self.boxes is None else self.boxes[part],
            scales=None if self.scales is None else self.scales[part],
            scores=None if self.scores is None else self.scores[part],
            local=None if self.local is None else self.local.of(image),
        )

    @staticmethod
    def joined(images: Sequence[DescriptorBatch], dim: int) -> DescriptorBatch:
        """Put together what each image has, (m_i, dim), numbering the images in order."""
        vectors = np.concatenate([np.zeros((0, dim), np.float32), *(image.vectors for image in images)])
        local = [image.local for image in images if image.local is not None]

        def column(name: str) -> Floats | None:
            parts = [getattr(image, name) for image in images]
            return np.concatenate(parts) if parts and parts[0] is not None else None

        return DescriptorBatch(
            vectors=vectors,
            image_row=np.repeat(np.arange(len(images), dtype=np.int64), [len(image.vectors) for image in images]),
            boxes=column("boxes"),
            scales=column("scales"),
            scores=column("scores"),
            local=DescriptorBatch.joined(local, local[0].vectors.shape[1]) if local else None,
        )


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
    unread: (path, reason) of the entries that could not be read when the file was made. It is of the other entries
    alone, under a shard id of their own (see stages/unread.py); this is told to the driver, and never stored.
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
    unread: tuple[tuple[str, str], ...] = Field(default=(), exclude=True)

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

    A faiss id is position << 32 | row: `position` indexes `files` (ids of DescriptorFiles), `row` is the number of an
    image there; the local descriptors of one image share its id. rows counts vectors.
    """

    kind: str
    fingerprint: str
    trained: Artifact
    artifact: Artifact
    rows: int
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """How long an item of work may take, and the option that says so; 0 seconds: there is no limit."""

    seconds: float = 0.0
    option: str = ""

    @property
    def exceeded(self) -> str:
        """What to say of an item that took longer."""
        seconds = f"{self.seconds:.0f}" if self.seconds >= 10 else f"{round(self.seconds, 1):g}"
        return f"took longer than {seconds} s" + (f" ({self.option})" if self.option else "")


Fault = Literal["", "item", "unknown", "worker"]
"""Whose fault an error is: the item's own, that of the process that worked on it, or nobody can tell."""


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[T, R]):
    """What became of one item of work; errors are values when they cross a process border. stats: see core/stats.py.

    unread: the error says nothing of the item, which could not be read; a later try may succeed. content: the error is
    one of the item's own bytes, which fail again in every later try. place: of the store whose error it is, which
    `error` does not say; "" for other errors.
    """

    item: T
    value: R | None
    error: str | None = None
    fault: Fault = ""
    unread: bool = False
    content: bool = False
    place: str = ""
    seconds: float = 0.0
    attempts: int = 1
    stats: dict[str, float] = field(default_factory=dict)

    def told(self, known: str = "") -> str:
        """Return the error with its place, unless that is where `known` lies."""
        line = self.error or "a worker gave no result"
        here = not self.place or known.startswith(self.place) or self.place in line
        return line if here else f"{line} (in {self.place})"


def row_ids(position: int, rows: int) -> Ints:
    """Return the faiss ids (rows,) of the first images of the descriptor file at `position` of an index shard."""
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
