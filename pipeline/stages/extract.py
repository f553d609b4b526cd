"""Extract a shard: stream its images, describe them, write one descriptor file and its completion record.

A shard with a completion record is not read again. Images are decoded ahead by threads within a byte budget, batched by
equal shape, and written in the order of the source; nothing depends on how many workers there are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import torch

from pipeline.core import retry, staging
from pipeline.core.resources import PROCESS_BYTES, Resources
from pipeline.core.stats import DEVICE, Stats, category
from pipeline.core.storage import open_store
from pipeline.core.types import Artifact, DescriptorFile, Floats, Image, Reject, Shard, TimeLimit
from pipeline.core.vectors import VectorBlock
from pipeline.extract import Encoded, Extractor, ExtractSpec, VectorExtractor
from pipeline.features.encoding import Encoder
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.rejects import write_rejects
from pipeline.sources import VectorSource
from pipeline.sources._hung import ReadsFiles
from pipeline.stages import corrupt, limits, unread
from pipeline.stages.completed import Counts, ShardFiles, completed
from pipeline.stages.describe import Described, Describer, ExtractOptions
from pipeline.stages.device import device_name, worker_device
from pipeline.stages.kinds import extract_spec, source_spec
from pipeline.stages.reuse import stored_of, with_metadata
from pipeline.stages.usable import searchable
from pipeline.stages.vectors import VectorSettings, VectorShards
from pipeline.table import write_descriptors
from pipeline.whiten import Whitening

WEIGHTS, HELD = 4, 2
"""Bytes of memory per byte of a weight file, which may hold half precision; steps that hold decoded images."""


@dataclass(frozen=True, kw_only=True)
class ExtractTask:
    """Work for a runner: `open` in a worker process gives a function from Shard to DescriptorFile.

    max_read_errors: so many reads that fail in a row end the reading of a shard.
    donors: descriptor ids of recipes that describe images alike and carry other metadata.
    """

    root: str
    location: str
    recipe: Recipe
    options: ExtractOptions = field(default_factory=ExtractOptions)
    max_read_errors: int = unread.MAX_READ_ERRORS
    donors: tuple[str, ...] = ()

    @property
    def resources(self) -> Resources:
        """A GPU where the kind computes on one. Two shards at a time, so that one is read while the other ends.

        Memory: the process, weights in float32 and as they are loaded, and what is held between the three steps:
        being decoded, waiting for images of equal shape, being described.
        """
        spec = extract_spec(self.recipe)
        weights = sum(value.bytes for _, value in spec if isinstance(value, Artifact))
        # Without a number of its own decoding takes a share of what its node has, see decode_memory.py.
        decoding = self.options.decode_bytes or self.options.in_flight
        memory = PROCESS_BYTES + WEIGHTS * weights + decoding + HELD * self.options.in_flight
        return Resources(
            gpu=spec.gpu, memory=memory, beside_gpu=self.options.waiting, depth=2 if self.options.overlap else 1
        )

    def limit(self, shard: Shard) -> TimeLimit:
        """How long a worker is waited for; it gives up a shard earlier, at the next image."""
        seconds = limits.shard_limit(self.options.shard_seconds, shard.bytes)
        return TimeLimit(seconds=limits.HARD * seconds, option=limits.OPTION)

    def open(self, threads: int) -> ExtractWorker:
        """Load the extractor; a broken recipe fails here, before any shard is read."""
        return ExtractWorker(self, threads)


class ExtractWorker:
    """One loaded extractor, fed shard after shard. `depth`: by so many threads, so that one shard is read while others
    end."""

    def __init__(self, task: ExtractTask, threads: int) -> None:
        self._recipe, self._options = task.recipe, task.options
        self._recipe_id, self._donors = task.recipe.descriptor_id, task.donors
        self._raw_id, self._local_id = task.recipe.raw.descriptor_id, task.recipe.local.descriptor_id
        store = open_store(task.root)
        self._catalog = Catalog(store)
        self._source = source_spec(task.recipe).open(task.location)
        if isinstance(self._source, ReadsFiles):
            self._source.image_seconds = task.options.image_seconds
        self._packs, self._max_read_errors = source_spec(task.recipe).packs, task.max_read_errors
        self._metadata = source_spec(task.recipe).kinds
        self._last_counts = source_spec(task.recipe).last_counts
        spec = extract_spec(task.recipe)
        device = worker_device(task.options.device) if spec.gpu else torch.device("cpu")
        self.device = device_name(device)
        self._zero_means = spec.zero_means
        self._extractor: Extractor = spec.build(store, device)
        self._encoder = _encoder(task.recipe, self._catalog)
        if self._encoder is not None:
            self._extractor = Encoded(self._extractor, self._encoder)
        self._stats = Stats()
        self._stopped = threading.Event()
        self._describe = Describer(self._extractor, device, threads, task.options, self._stats, weigh=spec.weigh)
        self.depth = self._describe.depth if task.options.overlap else 1
        self._contained = limits.ContainerReads(task.options.image_seconds, self.depth)
        self._retries = retry.total()
        # One shard is written and recorded at a time: whenever a worker dies, one file at most lacks its record.
        self._ending = threading.Lock()
        self._whiten: Callable[[Floats], Floats] | None = None
        if task.recipe.whiten is not None:
            assert task.recipe.whiten.artifact is not None, "whitening is fitted before shards are extracted"
            self._whiten = Whitening.from_bytes(self._catalog.read(task.recipe.whiten.artifact)).apply
        self._vectors = self._vector_shards(spec)

    def __call__(self, shard: Shard) -> DescriptorFile:
        """Return the shard's completion record, making it if nobody has; ShardError when it cannot be read whole, as a
        ContentError only where a second reading fails alike.

        Entries of a packed shard that could not be read are left out and named in `unread`; the record is then that of
        the other entries, see unread.py. ReadError when there are none, and for containers.
        """
        recipe_id = self._recipe_id
        done = self._catalog.record(self._catalog.record_name(recipe_id, shard.id), DescriptorFile)
        if done is not None:
            return done
        with self._stats.spanned("busy_seconds"):
            if self._vectors is not None and self._holds_vectors(shard):
                return self._streamed(shard, self._vectors)
            described, origin = corrupt.confirmed(
                lambda: self._found(shard), lambda: self._describe.walk(self._images(shard))
            )
            described, missing = unread.separated(described, shard, packed=self._packs)
            if origin != "reused":
                described = searchable(described, self._whiten, self._recipe.dtype, self._zero_means)
            with self._ending, self._stats.timed("write_seconds"):
                record = self._write(unread.part(shard, missing), described)
        if origin != "sampled":
            self._count(described, record, origin)
        else:
            # Everything else about these images was counted when the sample was described.
            self._stats.add("sampled", len(described.images))
        return record.model_copy(update={"unread": missing}) if missing else record

    def _count(self, described: Described, record: DescriptorFile, name: Literal["images", "reused"]) -> None:
        for reject in described.rejects:
            if reject.status == "rejected":
                self._stats.add(f"rejected:{category(reject.reason)}")
        for column in self._metadata:
            self._stats.add(f"null_{column}", sum(image.metadata.get(column) is None for image in described.images))
        if name == "images":
            self._stats.add(f"{DEVICE}{self.device}")
        self._stats.add("images", 0)
        self._stats.add("reused", 0)
        self._stats.add(name, len(described.images))
        self._stats.add("rejected", record.rejected)

    def take_stats(self) -> dict[str, float]:
        """Return what was done since the last time: counts, bytes, and seconds over all threads."""
        now = retry.total()
        self._stats.add("retries", now - self._retries)
        self._retries = now
        return self._stats.take()

    def stop(self) -> None:
        """Give up the shards at work: their calls end with an error."""
        self._stopped.set()
        self._describe.stop()

    def _found(self, shard: Shard) -> tuple[Described, Literal["images", "reused", "sampled"]]:
        """Return what a shard gives, and whether it comes from its images, another recipe, or a sample of its fits."""
        reused = self._reused(shard)
        if reused is not None:
            return reused, "reused"
        sampled = self._taken_up(shard)
        return (sampled, "sampled") if sampled is not None else (self._read(shard), "images")

    def _vector_shards(self, spec: ExtractSpec) -> VectorShards | None:
        """Return what writes files of vectors block by block; None where the recipe does not allow it."""
        if not spec.takes_vectors or self._encoder is not None or not isinstance(self._source, VectorSource):
            return None
        settings = VectorSettings(
            extractor=cast("VectorExtractor", self._extractor),
            whiten=self._whiten,
            dtype=self._recipe.dtype,
            recipe=self._recipe_id,
            metadata=self._metadata,
            zero_means=self._zero_means,
        )
        return VectorShards(settings, self._stats, self._stopped)

    def _holds_vectors(self, shard: Shard) -> bool:
        def look() -> bool:
            return cast("VectorSource", self._source).holds_vectors(shard)

        return corrupt.confirmed(lambda: unread.persistent(look), look)

    def _streamed(self, shard: Shard, vectors: VectorShards) -> DescriptorFile:
        """Write and record a file of vectors; one that could not be read is read again from its beginning."""
        with staging.folder() as folder:
            files = corrupt.confirmed(
                lambda: unread.persistent(lambda: vectors(self._blocks(shard), Path(folder))),
                lambda: deque(self._blocks(shard), maxlen=0),
            )
            with self._ending, self._stats.timed("write_seconds"):
                record = completed(self._catalog, self._recipe_id, self._recipe.dtype, shard.id, files)
        self._stats.add(f"{DEVICE}{self.device}")
        self._stats.add("images", record.indexed)
        self._stats.add("reused", 0)
        self._stats.add("rejected", record.rejected)
        return record

    def _blocks(self, shard: Shard) -> Iterator[VectorBlock]:
        """Read a file of vectors within the limits of an image, here a block, and of a shard."""
        blocks = self._contained(cast("VectorSource", self._source).vectors(shard))
        return limits.within(blocks, limits.shard_limit(self._options.shard_seconds, shard.bytes))

    def _read(self, shard: Shard) -> Described:
        """Describe the images of a shard; a container that could not be read is read again from its beginning."""
        last_counts = self._last_counts
        if self._packs:
            images = unread.patient(self._images(shard), shard, self._max_read_errors)
            return self._describe(images, last_counts=last_counts)
        return unread.persistent(lambda: self._describe(self._images(shard), last_counts=last_counts))

    def _images(self, shard: Shard) -> Iterator[Image | Reject]:
        """Read a shard within the limits of an image and of a shard."""
        images = self._source.images(shard)
        seconds = limits.shard_limit(self._options.shard_seconds, shard.bytes)
        return limits.within(images if self._packs else self._contained(images), seconds)

    def _reused(self, shard: Shard) -> Described | None:
        """Return what another recipe has of a shard, with the metadata of this one; None where the images differ."""
        for recipe_id in self._donors:
            stored = stored_of(self._catalog, recipe_id, shard)
            if stored is not None:
                return with_metadata(stored, self._images(shard))
        return None

    def _taken_up(self, shard: Shard) -> Described | None:
        """Take up what the fits' samples left of a shard, so that its images are not decoded twice."""
        if self._whiten is not None:
            encoded = stored_of(self._catalog, self._raw_id, shard)
            if encoded is not None:
                return encoded
        if self._encoder is None:
            return None
        local = stored_of(self._catalog, self._local_id, shard)
        if local is None:
            return None
        return replace(local, batch=self._encoder.apply(local.batch, len(local.images)))

    def _write(self, shard: Shard, described: Described) -> DescriptorFile:
        recipe_id, dtype = self._recipe_id, self._recipe.dtype
        with staging.folder() as folder:
            path = Path(folder) / "descriptors.parquet"
            rejects = Path(folder) / "rejects.parquet" if described.rejects else None
            with staging.writing():
                images, batch = described.images, described.batch
                write_descriptors(path, images, batch, dtype=dtype, recipe=recipe_id, metadata=self._metadata)
                if rejects is not None:
                    write_rejects(rejects, described.rejects)
            duplicates = sum(reject.status == "duplicate" for reject in described.rejects)
            counts = Counts(
                rows=len(batch.vectors),
                dim=batch.vectors.shape[1],
                indexed=len(images),
                rejected=len(described.rejects) - duplicates,
                duplicates=duplicates,
            )
            files = ShardFiles(descriptors=path, rejects=rejects, counts=counts)
            return completed(self._catalog, recipe_id, dtype, shard.id, files)


def _encoder(recipe: Recipe, catalog: Catalog) -> Encoder | None:
    if recipe.encode is None:
        return None
    assert recipe.encode.artifact is not None, "the codebook is fitted before shards are extracted"
    return Encoder.from_bytes(recipe.encode, catalog.read(recipe.encode.artifact))
