"""Fit whitening once, from a seeded sample of shards that does not depend on the number of workers.

Workers turn each sampled shard's raw descriptors into moments; the moments are merged in the order of shard ids, so the
result is the same to the bit for any number of workers. A completion record keeps it for reruns.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits

from pipeline.core import staging
from pipeline.core.specs import digest_of
from pipeline.core.storage import open_store
from pipeline.core.types import Artifact, DescriptorFile, Shard
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.table import DescriptorReader
from pipeline.whiten import Moments, fit_pca

_STREAM_ROWS = 1 << 14


@dataclass(frozen=True, kw_only=True)
class MomentsTask:
    """Work for a runner: from a raw DescriptorFile to the Artifact of its moments."""

    root: str

    uses_gpu = False

    def open(self, threads: int) -> MomentsTask:  # noqa: ARG002 - part of the protocol
        """Nothing to load."""
        return self

    def __call__(self, file: DescriptorFile) -> Artifact:
        """Store the moments of one descriptor file."""
        catalog = Catalog(open_store(self.root))
        # One BLAS thread: how a product is split among threads may change its last bits.
        with staging.folder() as folder, threadpool_limits(1, "blas"):
            reader = DescriptorReader(catalog.fetch(file.artifact, Path(folder)), file.artifact.uri)
            parts = [Moments.of(batch) for batch in reader.batches(_STREAM_ROWS)]
        empty = Moments.of(reader.vectors()[:0])
        return catalog.put_artifact(Moments.merge([empty, *parts]).to_bytes(), "moments.safetensors")


def sample_shards(shards: Iterable[Shard], recipe: Recipe) -> list[Shard]:
    """Return the shards that whitening is fitted from: the first ones in a seeded order of their ids."""
    assert recipe.whiten is not None, "only a recipe with whitening has a sample"
    seed, count = recipe.whiten.seed, recipe.whiten.sample_shards
    sample = heapq.nsmallest(count, shards, key=lambda shard: seeded_order(seed, shard.id))
    return sorted(sample, key=lambda shard: shard.id)


def seeded_order(seed: int, name: str) -> str:
    """Return a sort key that shuffles names the same way everywhere."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def fit_key(recipe: Recipe, shards: Sequence[Shard]) -> str:
    """Return the key of a fit's completion record: the recipe as declared, and the sample."""
    return digest_of({"fit": recipe.declared.fingerprint, "sample": [shard.id for shard in shards]})


def fitted(catalog: Catalog, recipe: Recipe, shards: Sequence[Shard]) -> Recipe | None:
    """Return the recipe with its whitening if this fit has been completed before."""
    record = catalog.record(catalog.artifact_record_name(fit_key(recipe, shards)), Artifact)
    return None if record is None else with_whitening(recipe, record)


def fit_whitening(catalog: Catalog, recipe: Recipe, shards: Sequence[Shard], moments: Sequence[Artifact]) -> Recipe:
    """Fit from the moments of the sample, in the order given; return the recipe with the digest filled in."""
    assert recipe.whiten is not None, "only a recipe with whitening is fitted"
    merged = Moments.merge([Moments.from_bytes(catalog.read(part)) for part in moments])
    with threadpool_limits(1, "blas"):
        whitening = fit_pca(merged, power=recipe.whiten.power, dims=recipe.whiten.dims)
    artifact = catalog.put_artifact(whitening.to_bytes(), "whitening.safetensors")
    record = catalog.complete(catalog.artifact_record_name(fit_key(recipe, shards)), artifact)
    return with_whitening(recipe, record)


def with_whitening(recipe: Recipe, artifact: Artifact) -> Recipe:
    """Return the recipe with its whitening named by digest."""
    assert recipe.whiten is not None, "only a recipe with whitening is fitted"
    return recipe.model_copy(update={"whiten": recipe.whiten.model_copy(update={"artifact": artifact})})
