"""Fit codebooks and whitening once, from a seeded sample of shards that does not depend on the number of workers.

Workers turn each sampled shard's raw descriptors into moments; the moments are merged in the order of shard ids, so the
result is the same to the bit for any number of workers. A completion record keeps it for reruns.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from threadpoolctl import threadpool_limits

from pipeline.core import staging
from pipeline.core.errors import UserError
from pipeline.core.resources import PROCESS_BYTES, Resources
from pipeline.core.specs import digest_of
from pipeline.core.storage import open_store
from pipeline.core.types import Artifact, DescriptorBatch, DescriptorFile, Shard
from pipeline.features.encoding import EncodeSpec, fit_encoder
from pipeline.features.usable import usable
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.stages.fetch import readers
from pipeline.stages.sample import finite, read_sample, sample_bytes, seeded_order
from pipeline.table import DescriptorReader
from pipeline.whiten import Moments, WhitenSpec, fit_pca

What = Literal["encode", "whiten"]
"""Which part of a recipe is fitted, in this order."""

LEAST_PER_DIM = 10
"""Vectors of the sample for each dimension of a whitening, below which the run warns."""
_STREAM_ROWS = 1 << 14


@dataclass(frozen=True, kw_only=True)
class MomentsTask:
    """Work for a runner: from a raw DescriptorFile to the Artifact of its moments."""

    root: str

    resources = Resources(memory=PROCESS_BYTES)

    def open(self, threads: int) -> MomentsTask:  # noqa: ARG002 - part of the protocol
        """Nothing to load."""
        return self

    def __call__(self, file: DescriptorFile) -> Artifact:
        """Store the moments of one descriptor file."""
        catalog = Catalog(open_store(self.root))
        # One BLAS thread: how a product is split among threads may change its last bits.
        with staging.folder() as folder, threadpool_limits(1, "blas"):
            reader = DescriptorReader(catalog.fetch(file.artifact, Path(folder)), file.artifact.uri)
            parts = [Moments.of(finite(batch)) for batch in reader.batches(_STREAM_ROWS)]
        empty = Moments.of(reader.vectors()[:0])
        return catalog.put_artifact(Moments.merge([empty, *parts]).to_bytes(), "moments.safetensors")


@dataclass(frozen=True, kw_only=True)
class CodebookTask:
    """Work for a runner: from the files of sampled local descriptors to the Artifact of the codebook.

    dim: of the local descriptors.
    """

    root: str
    encode: EncodeSpec
    dim: int = 0

    @property
    def resources(self) -> Resources:
        """The sample, as it is read and as k-means takes it, and the process."""
        return Resources(memory=PROCESS_BYTES + sample_bytes(self.encode.sample_rows, self.dim))

    def open(self, threads: int) -> CodebookTask:  # noqa: ARG002 - part of the protocol
        """Nothing to load."""
        return self

    def __call__(self, files: tuple[DescriptorFile, ...]) -> Artifact:
        """Draw the sample, fit, store."""
        catalog = Catalog(open_store(self.root))
        rows = min(sum(file.rows for file in files), self.encode.sample_rows)
        sample = read_sample(catalog, files, rows, self.encode.seed)
        fitted = fit_encoder(self.encode, sample, lambda: _per_image(catalog, files))
        return catalog.put_artifact(fitted.to_bytes(), "codebook.safetensors")


def _per_image(catalog: Catalog, files: Sequence[DescriptorFile]) -> Iterator[DescriptorBatch]:
    for file, reader in zip(files, readers(catalog, files), strict=True):
        batch = reader.batch()
        for image in range(file.indexed):
            found = usable(batch.of(image))
            if len(found.vectors):
                yield found


def sample_shards(shards: Iterable[Shard], spec: WhitenSpec | EncodeSpec) -> list[Shard]:
    """Return the shards that a fit is made from: the first ones in a seeded order of their ids."""
    sample = heapq.nsmallest(spec.sample_shards, shards, key=lambda shard: seeded_order(spec.seed, shard.id))
    return sorted(sample, key=lambda shard: shard.id)


def fit_key(recipe: Recipe, shards: Sequence[Shard], what: What) -> str:
    """Return the key of a fit's completion record: the recipe as declared, the sample, and what was fitted before.

    Whitening alone says no more than it did before there were codebooks, so that its records still count.
    """
    key: dict[str, object] = {"fit": recipe.declared.fingerprint, "sample": [shard.id for shard in shards]}
    if what == "encode":
        key["what"] = what
    elif recipe.encode is not None and recipe.encode.artifact is not None:
        key["encode"] = recipe.encode.artifact.sha256
    return digest_of(key)


def run_key(recipe: Recipe, what: What, *, source: str, after: str) -> str:
    """Return the key under which runs that follow the same head share a fit, whatever their sample is.

    A source grows while it is indexed: the descriptors that a killed run finished count only by its own fit.
    source: its place. after: what the fit comes after, "" where nothing has been published.
    """
    return digest_of({"run": fit_key(recipe, (), what), "source": source, "after": after})


def fitted(catalog: Catalog, recipe: Recipe, what: What, keys: Sequence[str]) -> Recipe | None:
    """Return the recipe with its whitening, or codebook, if this fit has been completed before under one of the keys.

    The first key that has a record counts.
    """
    for key in keys:
        record = catalog.record(catalog.artifact_record_name(key), Artifact)
        if record is not None:
            return complete(catalog, recipe, what, keys[: keys.index(key)], record)
    return None


def fit_whitening(
    catalog: Catalog, recipe: Recipe, keys: Sequence[str], moments: Sequence[Artifact], *, images: int
) -> tuple[Recipe, str]:
    """Fit from the moments of the sample, in the order given.

    Return the recipe with the digest filled in, and what is to be said of a small sample ("" where it is large enough).
    images: of the sample. UserError when it does not support the dimensions that the recipe states.
    """
    assert recipe.whiten is not None, "only a recipe with whitening is fitted"
    merged = Moments.merge([Moments.from_bytes(catalog.read(part)) for part in moments])
    with threadpool_limits(1, "blas"):
        whitening = fit_pca(merged, power=recipe.whiten.power, dims=recipe.whiten.dims)
    if recipe.whiten.dims is not None and whitening.dim < recipe.whiten.dims:
        raise unreachable(recipe.whiten.dims, images, whitening.dim)
    made = catalog.put_artifact(whitening.to_bytes(), "whitening.safetensors")
    return complete(catalog, recipe, "whiten", keys, made), small_sample(merged.count, whitening.dim)


def unreachable(dims: int, images: int, supported: int) -> UserError:
    """Return the refusal of dimensions that a sample cannot give: n vectors span n - 1 dimensions at most."""
    return UserError(
        f"--dims {dims}",
        f"cannot be fitted: the sample of {images} images supports {supported} dimensions",
        "index more images first, choose fewer dimensions, or use --whiten none",
    )


def small_sample(vectors: int, dims: int) -> str:
    """Return the warning for a whitening of few vectors: below 10 for each dimension variances are mostly noise."""
    if vectors >= LEAST_PER_DIM * dims:
        return ""
    return (
        f"the whitening is fitted from {vectors} descriptors, fewer than {LEAST_PER_DIM} for each of its {dims} "
        "dimensions, and stays as it is; choose fewer with --dims, or fit it again with --refit once there are more"
    )


def complete(catalog: Catalog, recipe: Recipe, what: What, keys: Sequence[str], artifact: Artifact) -> Recipe:
    """Record a fit under its keys; return the recipe with the digest that counts: the one under the first key.

    Another run may have recorded another one before.
    """
    for key in reversed(keys):
        record = catalog.complete(catalog.artifact_record_name(key), artifact)
        if key == keys[0]:
            artifact = record
    return _with(recipe, what, artifact)


def _with(recipe: Recipe, what: What, artifact: Artifact) -> Recipe:
    spec = getattr(recipe, what)
    assert spec is not None, "only what a recipe has is fitted"
    return recipe.model_copy(update={what: spec.model_copy(update={"artifact": artifact})})
