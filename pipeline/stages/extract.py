"""Extract a shard: stream its images, describe them, write one descriptor file and its completion record.

A shard with a completion record is not read again. Images are decoded ahead by threads within a byte budget, batched by
equal shape, and written in the order of the source; nothing depends on how many workers there are.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pipeline.core import retry, staging
from pipeline.core.errors import BadImageError
from pipeline.core.prefetch import ordered_map
from pipeline.core.stats import Level, Stats, category
from pipeline.core.storage import open_store
from pipeline.core.types import Artifact, DescriptorFile, Floats, Image, Reject, Shard
from pipeline.decode import Decoded, pixels_of
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.stages.kinds import extract_spec, source_spec
from pipeline.table import DescriptorReader, ImageRow, read_rejects, write_descriptors, write_rejects
from pipeline.whiten import Whitening

Group = list[tuple[int, Decoded]]
"""Images of equal shape, with their rows."""

BYTES_PER_PIXEL = 12
"""RGB bytes of an image at full size, of its converted copy and of what the decoder holds meanwhile."""


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """How a worker uses its machine; none of it changes what it writes.

    batch: images of equal shape per forward pass. in_flight: bytes of decoded images held ahead.
    """

    device: str = "auto"
    batch: int = 8
    decode_threads: int = 0
    in_flight: int = 512 << 20


@dataclass(frozen=True, kw_only=True)
class ExtractTask:
    """Work for a runner: `open` in a worker process gives a function from Shard to DescriptorFile."""

    root: str
    location: str
    recipe: Recipe
    options: ExtractOptions = field(default_factory=ExtractOptions)

    uses_gpu = True

    def open(self, threads: int) -> ExtractWorker:
        """Load the extractor; a broken recipe fails here, before any shard is read."""
        return ExtractWorker(self, threads)


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a shard gave: images in source order with their vectors (n, d), and what was not indexed."""

    images: list[ImageRow]
    vectors: Floats
    rejects: list[Reject]


class ExtractWorker:
    """One loaded extractor, fed shard after shard."""

    def __init__(self, task: ExtractTask, threads: int) -> None:
        self._recipe, self._options = task.recipe, task.options
        self._recipe_id, self._raw_id = task.recipe.descriptor_id, task.recipe.raw.descriptor_id
        store = open_store(task.root)
        self._catalog = Catalog(store)
        self._source = source_spec(task.recipe).open(task.location)
        device = choose_device(task.options.device)
        self._extractor = extract_spec(task.recipe).build(store, device)
        # How a convolution is split among threads changes its last bits. One thread per forward pass, and several
        # passes side by side, give the same values for any number of threads and workers, and are no slower.
        self._forward_threads = threads if device.type == "cpu" else 1
        if device.type == "cpu":
            torch.set_num_threads(1)
        self._stats, self._queue = Stats(), Level()
        self._retries = retry.total()
        self._whitening: Whitening | None = None
        if task.recipe.whiten is not None:
            assert task.recipe.whiten.artifact is not None, "whitening is fitted before shards are extracted"
            self._whitening = Whitening.from_bytes(self._catalog.read(task.recipe.whiten.artifact))
        self._decode_threads = task.options.decode_threads or max(1, threads // 2)

    def __call__(self, shard: Shard) -> DescriptorFile:
        """Return the shard's completion record, making it if nobody has; ShardError when it cannot be read whole."""
        recipe_id = self._recipe_id
        done = self._catalog.record(self._catalog.record_name(recipe_id, shard.id), DescriptorFile)
        if done is not None:
            return done
        described = self._from_raw(shard) or self._describe(shard)
        with self._stats.timed("write_seconds"):
            record = self._write(shard, described)
        for reject in described.rejects:
            if reject.status == "rejected":
                self._stats.add(f"rejected:{category(reject.reason)}")
        self._stats.add("images", len(described.images))
        self._stats.add("rejected", record.rejected)
        return record

    def take_stats(self) -> dict[str, float]:
        """Return what was done since the last time: counts, bytes, and seconds over all threads."""
        now = retry.total()
        self._stats.add("retries", now - self._retries)
        self._retries = now
        return self._stats.take()

    def _from_raw(self, shard: Shard) -> Described | None:
        """Take up raw descriptors of the whitening sample, so that its images are not decoded twice."""
        if self._whitening is None:
            return None
        raw = self._catalog.record(self._catalog.record_name(self._raw_id, shard.id), DescriptorFile)
        if raw is None:
            return None
        with staging.folder() as folder:
            reader = DescriptorReader(self._catalog.fetch(raw.artifact, Path(folder)), raw.artifact.uri)
            images, vectors = reader.images(), self._whiten(reader.vectors())
            rejects = []
            if raw.rejects is not None:
                rejects = read_rejects(self._catalog.fetch(raw.rejects, Path(folder)))
        return Described(images=images, vectors=vectors, rejects=rejects)

    def _describe(self, shard: Shard) -> Described:
        images: list[ImageRow] = []
        rejects: list[Reject] = []
        vectors: dict[int, Floats] = {}
        forwarded = ordered_map(
            self._forward,
            self._batches(self._decoded(shard, images, rejects)),
            workers=self._forward_threads,
            budget=self._options.in_flight,
            weigh=lambda group: sum(image.pixels.nbytes for _, image in group),
        )
        for rows, found in forwarded:
            vectors.update(zip(rows, found, strict=True))
        stacked = np.stack([vectors[row] for row in range(len(images))]) if images else None
        raw = stacked if stacked is not None else np.zeros((0, self._extractor.dim), np.float32)
        return Described(images=images, vectors=self._whiten(raw), rejects=rejects)

    def _forward(self, group: Group) -> tuple[tuple[int, ...], Floats]:
        rows, pixels = zip(*group, strict=True)
        self._stats.add("passes")
        self._stats.add("queued", self._queue.take(len(group)))
        with self._stats.timed("forward_seconds"), self._stats.spanned("device_seconds"):
            batch = self._extractor.extract(pixels)
        assert len(batch.vectors) == len(rows), "a global descriptor gives one row per image"
        return rows, batch.vectors

    def _whiten(self, vectors: Floats) -> Floats:
        return vectors if self._whitening is None else self._whitening.apply(vectors)

    def _decoded(self, shard: Shard, images: list[ImageRow], rejects: list[Reject]) -> Iterator[tuple[int, Decoded]]:
        """Yield (row, pixels) of each usable image in order; rows and rejects are noted as they come."""
        prepared = ordered_map(
            self._prepare,
            _without_duplicates(self._source.images(shard)),
            workers=self._decode_threads,
            budget=self._options.in_flight,
            weigh=lambda item: BYTES_PER_PIXEL * pixels_of(item.data) if isinstance(item, Image) else 0,
        )
        for item in prepared:
            if isinstance(item, Reject):
                rejects.append(item)
            else:
                image, pixels = item
                images.append(image)
                yield len(images) - 1, pixels

    def _prepare(self, item: Image | Reject) -> tuple[ImageRow, Decoded] | Reject:
        if isinstance(item, Reject):
            return item
        self._stats.add("bytes", len(item.data))
        try:
            with self._stats.timed("decode_seconds"):
                pixels = self._extractor.prepare(item.data)
        except BadImageError as error:
            return Reject(key=item.key, uri=item.uri, reason=str(error), bytes=len(item.data))
        digest = hashlib.sha256(item.data).hexdigest()
        row = ImageRow(key=item.key, uri=item.uri, width=pixels.width, height=pixels.height, sha256=digest)
        self._queue.put()
        return row, pixels

    def _batches(self, decoded: Iterable[tuple[int, Decoded]]) -> Iterator[Group]:
        """Group images of equal shape; what waits for company is bounded like what is in flight."""
        waiting: dict[tuple[int, ...], list[tuple[int, Decoded]]] = {}
        held = 0
        for row, image in decoded:
            group = waiting.setdefault(image.pixels.shape, [])
            group.append((row, image))
            held += image.pixels.nbytes
            if len(group) >= self._options.batch:
                held -= len(group) * image.pixels.nbytes
                yield waiting.pop(image.pixels.shape)
            elif held > self._options.in_flight:
                largest = max(waiting, key=lambda shape: len(waiting[shape]) * int(np.prod(shape)))
                held -= sum(pixels.pixels.nbytes for _, pixels in waiting[largest])
                yield waiting.pop(largest)
        yield from waiting.values()

    def _write(self, shard: Shard, described: Described) -> DescriptorFile:
        recipe_id, writer = self._recipe.descriptor_id, uuid.uuid4().hex[:12]
        with staging.folder() as folder:
            path = Path(folder) / "descriptors.parquet"
            write_descriptors(
                path, described.images, described.vectors, dtype=self._recipe.dtype, recipe=self._recipe.descriptor_id
            )
            artifact = self._catalog.upload(path, self._catalog.descriptor_name(recipe_id, shard.id, writer))
            rejects: Artifact | None = None
            if described.rejects:
                path = Path(folder) / "rejects.parquet"
                write_rejects(path, described.rejects)
                rejects = self._catalog.upload(path, self._catalog.rejects_name(recipe_id, shard.id, writer))
        duplicates = sum(reject.status == "duplicate" for reject in described.rejects)
        record = DescriptorFile(
            shard_id=shard.id,
            writer=writer,
            artifact=artifact,
            rejects=rejects,
            rows=len(described.vectors),
            indexed=len(described.images),
            rejected=len(described.rejects) - duplicates,
            duplicates=duplicates,
            dim=described.vectors.shape[1],
            dtype=self._recipe.dtype,
        )
        # Another worker may have finished the same shard meanwhile: its record counts, and this file is garbage.
        return self._catalog.complete(self._catalog.record_name(recipe_id, shard.id), record)


def choose_device(name: str) -> torch.device:
    """Return the device to compute on; "auto" takes the GPU that this process may see, if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _without_duplicates(items: Iterable[Image | Reject]) -> Iterator[Image | Reject]:
    """The first of equal keys counts; the others become duplicates, whatever they hold."""
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            size = len(item.data) if isinstance(item, Image) else item.bytes
            reason = "another image of the shard has the same key"
            yield Reject(key=item.key, uri=item.uri, reason=reason, bytes=size, status="duplicate")
        else:
            seen.add(item.key)
            yield item
