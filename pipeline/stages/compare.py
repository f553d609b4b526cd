"""Compare entries whose etag changed with what was described: read, digest, never decode.

An image is as it was when its key, its bytes and its metadata are. A container is when all of its images are, in their
order, and nothing was added. What was rejected is compared by its digest, too; a reject of an older release has none,
and its entry counts as changed, as does all that cannot be read.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline.core import staging
from pipeline.core.metadata import Value
from pipeline.core.resources import PROCESS_BYTES, Resources
from pipeline.core.storage import open_store
from pipeline.core.types import DescriptorFile, Entry, Image, Reject, Shard, chunked
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.plan import entries_of
from pipeline.rejects import read_rejects
from pipeline.sources import SourceSpec
from pipeline.stages import limits
from pipeline.stages.reuse import recorded
from pipeline.table import DescriptorReader

PER_ITEM = 256
"""Single files that are compared at a time."""


@dataclass(frozen=True, kw_only=True)
class CompareItem:
    """Entries as they are listed now, and the shards that they lie in; place: of the first one among all.

    files: descriptor files of these shards.
    """

    place: int
    entries: tuple[Entry, ...]
    shards: tuple[str, ...]
    files: tuple[DescriptorFile, ...]


@dataclass(frozen=True, kw_only=True)
class CompareTask:
    """Work for a runner: from a CompareItem to whether each entry is as it was.

    deleted: (key, sha256) of deleted images, which a descriptor file may not hold any more.
    """

    root: str
    location: str
    source: SourceSpec
    deleted: frozenset[tuple[str, str]] = frozenset()

    resources = Resources(memory=PROCESS_BYTES)

    def open(self, threads: int) -> CompareWorker:  # noqa: ARG002 - part of the protocol
        """Open the source."""
        return CompareWorker(self)


class CompareWorker:
    """One opened source, to be compared with what is stored."""

    def __init__(self, task: CompareTask) -> None:
        self._catalog = Catalog(open_store(task.root))
        self._source, self._packs = task.source.open(task.location), task.source.packs
        self._contained = limits.ContainerReads(limits.IMAGE_SECONDS, 1)
        self._columns, self._deleted = list(task.source.kinds), task.deleted

    def __call__(self, item: CompareItem) -> tuple[bool, ...]:
        """Read the entries and compare; an error when they cannot be read to their end."""
        known = {file.shard_id: self._known(file) for file in item.files}
        size = sum(entry.size for entry in item.entries)
        images = self._source.images(Shard(id="", uri="", bytes=size, etag="", entries=item.entries))
        if not self._packs:
            (stored,) = known.values()
            return (self._as_it_was(self._contained(images), stored),)
        # A file may still hold an older image of an entry that lies in another one now.
        stored_of = {entry.path: known[shard] for entry, shard in zip(item.entries, item.shards, strict=True)}
        equal = {what.key for what in map(_what, images) if stored_of[what.key].has(what)}
        return tuple(entry.path in equal for entry in item.entries)

    def _as_it_was(self, images: Iterable[Image | Reject], stored: _Known) -> bool:
        """Compare a container to its end: only then is all known of what its images carry."""
        carried: list[tuple[Mapping[str, Value], tuple[Value, ...]]] = []
        for image in recorded(images):
            place = stored.place
            if not stored.is_next(_what(image)):
                return False
            if isinstance(image, Image) and stored.place > place:
                carried.append((image.metadata, stored.metadata[place]))
        same = all(tuple(now.get(name) for name in self._columns) == before for now, before in carried)
        return same and stored.is_at_end()

    def _known(self, file: DescriptorFile) -> _Known:
        known = _Known(self._deleted)
        with staging.folder() as folder:
            reader = DescriptorReader(self._catalog.fetch(file.artifact, Path(folder)), file.artifact.uri)
            columns = reader.columns(["key", "sha256", *self._columns]).to_pydict()
            metadata = [columns[name] for name in self._columns]
            for place, (key, sha256) in enumerate(zip(columns["key"], columns["sha256"], strict=True)):
                known.images.append(_What(key, sha256, ""))
                known.metadata.append(tuple(column[place] for column in metadata))
            if file.rejects is not None:
                for reject in read_rejects(self._catalog.fetch(file.rejects, Path(folder))):
                    reason = "" if reject.sha256 else f"{reject.bytes} {reject.reason}"
                    known.rejects[_What(reject.key, reject.sha256, reason)] += 1
        return known


class _What(NamedTuple):
    """What an image or a reject is: its digest where it was read, else the reason."""

    key: str
    sha256: str
    reason: str


def _what(image: Image | Reject) -> _What:
    if isinstance(image, Reject):
        return _What(image.key, "", f"{image.bytes} {image.reason}")
    return _What(image.key, hashlib.sha256(image.data).hexdigest(), "")


class _Known:
    """What was stored of a shard: images in order with their metadata, and rejects. place: of the next image."""

    def __init__(self, deleted: frozenset[tuple[str, str]]) -> None:
        self.images: list[_What] = []
        self.metadata: list[tuple[Value, ...]] = []
        self.rejects: Counter[_What] = Counter()
        self.place = 0
        self._deleted = deleted

    @cached_property
    def _all(self) -> frozenset[_What]:
        return frozenset(self.images)

    def has(self, what: _What) -> bool:
        """Tell whether an image that could be read is among these, or deleted."""
        read = bool(what.sha256)
        return read and (what in self._all or what in self.rejects or what[:2] in self._deleted)

    def is_next(self, what: _What) -> bool:
        """Tell whether a container goes on as it was; the order of rejects does not matter."""
        if self.place < len(self.images) and self.images[self.place] == what:
            self.place += 1
        elif self.rejects[what] > 0:
            self.rejects[what] -= 1
        elif what[:2] not in self._deleted:
            return False
        return True

    def is_at_end(self) -> bool:
        """Tell whether nothing is missing."""
        return self.place == len(self.images) and not any(self.rejects.values())


def compare_items(rows: Iterable[pa.RecordBatch], descriptors: pa.Table, *, packed: bool) -> Iterator[CompareItem]:
    """Yield what to compare of touched entries (see publish/renew.py), in their order: single files some at a time."""
    places = {shard: place for place, shard in enumerate(descriptors["shard_id"].to_pylist())}
    start = 0
    for batch in rows:
        for part in chunked(list(entries_of(batch)), PER_ITEM if packed else 1):
            entries, shards = zip(*part, strict=True)
            known = sorted({places[shard] for shard in shards if shard in places})
            files = tuple(manifests.descriptor_files(descriptors.take(pa.array(known, pa.int64()))))
            yield CompareItem(place=start, entries=entries, shards=shards, files=files)
            start += len(part)
