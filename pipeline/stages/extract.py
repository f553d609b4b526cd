"""Extract a shard: stream its images, describe them, write one descriptor file and its completion record.

A shard with a completion record is not read again. Images are decoded ahead by threads within a byte budget, batched by
equal shape, and written in the order of the source; nothing depends on how many workers there are.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.core import retry, staging
from pipeline.core.errors import IntegrityError, NotFoundError
from pipeline.core.stats import Stats, category
from pipeline.core.storage import open_store
from pipeline.core.types import Artifact, DescriptorFile, Floats, Shard
from pipeline.extract import Encoded, Extractor
from pipeline.features.encoding import Encoder
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.rejects import read_rejects, write_rejects
from pipeline.stages import unread
from pipeline.stages.describe import Described, Describer, ExtractOptions, choose_device
from pipeline.stages.kinds import extract_spec, source_spec
from pipeline.stages.reuse import with_metadata
from pipeline.stages.usable import searchable
from pipeline.table import DescriptorReader, write_descriptors
from pipeline.whiten import Whitening


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

    uses_gpu = True

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
        self._packs, self._max_read_errors = source_spec(task.recipe).packs, task.max_read_errors
        self._metadata = source_spec(task.recipe).kinds
        self._last_counts = source_spec(task.recipe).last_counts
        device = choose_device(task.options.device)
        spec = extract_spec(task.recipe)
        self._zero_means = spec.zero_means
        self._extractor: Extractor = spec.build(store, device)
        self._encoder = _encoder(task.recipe, self._catalog)
        if self._encoder is not None:
            self._extractor = Encoded(self._extractor, self._encoder)
        self._stats = Stats()
        self._describe = Describer(self._extractor, device, threads, task.options, self._stats, weigh=spec.weigh)
        self.depth = self._describe.depth if task.options.overlap else 1
        self._retries = retry.total()
        # One shard is written and recorded at a time: whenever a worker dies, one file at most lacks its record.
        self._ending = threading.Lock()
        self._whiten: Callable[[Floats], Floats] | None = None
        if task.recipe.whiten is not None:
            assert task.recipe.whiten.artifact is not None, "whitening is fitted before shards are extracted"
            self._whiten = Whitening.from_bytes(self._catalog.read(task.recipe.whiten.artifact)).apply

    def __call__(self, shard: Shard) -> DescriptorFile:
        """Return the shard's completion record, making it if nobody has; ShardError when it cannot be read whole.

        Entries of a packed shard that could not be read are left out and named in `unread`; the record is then that of
        the other entries, see unread.py. ReadError when there are none, and for containers.
        """
        recipe_id = self._recipe_id
        done = self._catalog.record(self._catalog.record_name(recipe_id, shard.id), DescriptorFile)
        if done is not None:
            return done
        with self._stats.spanned("busy_seconds"):
            reused = self._reused(shard)
            sampled = self._taken_up(shard) if reused is None else None
            described, missing = unread.separated(reused or sampled or self._read(shard), shard, packed=self._packs)
            if reused is None:
                described = searchable(described, self._whiten, self._recipe.dtype, self._zero_means)
            with self._ending, self._stats.timed("write_seconds"):
                record = self._write(unread.part(shard, missing), described)
        if sampled is None:
            self._count(described, record, "images" if reused is None else "reused")
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
        self._describe.stop()

    def _read(self, shard: Shard) -> Described:
        """Describe the images of a shard; a container that could not be read is read again from its beginning."""
        last_counts = self._last_counts
        if self._packs:
            images = unread.patient(self._source.images(shard), shard, self._max_read_errors)
            return self._describe(images, last_counts=last_counts)
        return unread.persistent(lambda: self._describe(self._source.images(shard), last_counts=last_counts))

    def _reused(self, shard: Shard) -> Described | None:
        """Return what another recipe has of a shard, with the metadata of this one; None where the images differ."""
        for recipe_id in self._donors:
            stored = self._stored(recipe_id, shard)
            if stored is not None:
                return with_metadata(stored, self._source.images(shard))
        return None

    def _taken_up(self, shard: Shard) -> Described | None:
        """Take up what the fits' samples left of a shard, so that its images are not decoded twice."""
        if self._whiten is not None:
            encoded = self._stored(self._raw_id, shard)
            if encoded is not None:
                return encoded
        if self._encoder is None:
            return None
        local = self._stored(self._local_id, shard)
        if local is None:
            return None
        return replace(local, batch=self._encoder.apply(local.batch, len(local.images)))

    def _stored(self, recipe_id: str, shard: Shard) -> Described | None:
        """Return what a shard has by another recipe, if it was extracted by it."""
        record = self._catalog.record(self._catalog.record_name(recipe_id, shard.id), DescriptorFile)
        if record is None:
            return None
        try:
            return self._described(record)
        except (NotFoundError, IntegrityError):
            return None  # collected, or broken: what is only of use to save work is not needed

    def _described(self, record: DescriptorFile) -> Described:
        with staging.folder() as folder:
            reader = DescriptorReader(self._catalog.fetch(record.artifact, Path(folder)), record.artifact.uri)
            images, batch = reader.images(), reader.batch()
            rejects = []
            if record.rejects is not None:
                rejects = read_rejects(self._catalog.fetch(record.rejects, Path(folder)))
        return Described(images=images, batch=batch, rejects=rejects)

    def _write(self, shard: Shard, described: Described) -> DescriptorFile:
        recipe_id, writer = self._recipe_id, uuid.uuid4().hex[:12]
        with staging.folder() as folder:
            path = Path(folder) / "descriptors.parquet"
            with staging.writing():
                write_descriptors(
                    path,
                    described.images,
                    described.batch,
                    dtype=self._recipe.dtype,
                    recipe=recipe_id,
                    metadata=self._metadata,
                )
            artifact = self._catalog.upload(path, self._catalog.descriptor_name(recipe_id, shard.id, writer))
            rejects: Artifact | None = None
            if described.rejects:
                path = Path(folder) / "rejects.parquet"
                with staging.writing():
                    write_rejects(path, described.rejects)
                rejects = self._catalog.upload(path, self._catalog.rejects_name(recipe_id, shard.id, writer))
        duplicates = sum(reject.status == "duplicate" for reject in described.rejects)
        record = DescriptorFile(
            shard_id=shard.id,
            writer=writer,
            artifact=artifact,
            rejects=rejects,
            rows=len(described.batch.vectors),
            indexed=len(described.images),
            rejected=len(described.rejects) - duplicates,
            duplicates=duplicates,
            dim=described.batch.vectors.shape[1],
            dtype=self._recipe.dtype,
        )
        # Another worker may have finished the same shard meanwhile: its record counts, and this file is garbage.
        return self._catalog.complete(self._catalog.record_name(recipe_id, shard.id), record)


def _encoder(recipe: Recipe, catalog: Catalog) -> Encoder | None:
    if recipe.encode is None:
        return None
    assert recipe.encode.artifact is not None, "the codebook is fitted before shards are extracted"
    return Encoder.from_bytes(recipe.encode, catalog.read(recipe.encode.artifact))
