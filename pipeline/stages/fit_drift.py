"""Drift of what a recipe fits: how well its whitening and its codebook still suit the collection.

Measured at every publication on a seeded sample of live vectors, and compared with the values at the first one. What is
stored are whitened vectors of length 1, so mean and covariance of the projection are not there to be compared with 0
and the identity. Two things of it survive the normalisation, for any power: vectors of one distribution with mean 0
have a mean cosine of 0 with each other, and the share of the dimensions that variance is spread over stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core import staging
from pipeline.core.resources import PROCESS_BYTES, Resources
from pipeline.core.storage import open_store
from pipeline.core.types import Artifact, DescriptorFile, Floats
from pipeline.features.encoding import Encoder
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Fitness, Health
from pipeline.stages.drift import DriftItem, live_sample
from pipeline.stages.fit import LEAST_PER_DIM
from pipeline.stages.sample import sample_files
from pipeline.table import DescriptorReader

WHITENING, CODEBOOK = "whitening", "codebook"
FITS = (WHITENING, CODEBOOK)
"""Names of the fits among the kinds of `Snapshot.fitness`; no index kind is called so."""
SAMPLE, LEAST, SEED = 8192, 64, 2
"""Vectors in the sample; fewer live ones than LEAST say nothing."""
LOCAL_FILES, LOCAL_IMAGES = 4, 64
"""Files, and images of each, whose kept local descriptors the quantisation error is measured on."""
MEAN_COSINE = 0.05
EVENNESS = 0.75
QUANTISATION = 1.2
GROWTH = 4.0
"""Thresholds: added to the mean cosine, factors of the others. Growth counts where the first sample was small."""


@dataclass(frozen=True, kw_only=True)
class FitDriftTask:
    """Work for a runner: from a DriftItem to a Health."""

    root: str
    recipe: Recipe

    resources = Resources(memory=PROCESS_BYTES)

    def open(self, threads: int) -> FitDriftTask:  # noqa: ARG002 - part of the protocol
        """Nothing to load."""
        return self

    def __call__(self, item: DriftItem) -> Health:
        """Read the sample and measure."""
        catalog = Catalog(open_store(self.root))
        x = live_sample(catalog, item)
        if len(x) < LEAST:
            return Health(trained=item.trained.sha256, rows=item.rows, values={})
        values = spread(x)
        error = _quantisation(catalog, self.recipe, item) if item.kind == CODEBOOK else None
        if error is not None:
            values["quantisation_error"] = error
        return Health(trained=item.trained.sha256, rows=item.rows, values={k: round(v, 6) for k, v in values.items()})


def spread(x: Floats) -> dict[str, float]:
    """Return the mean cosine between two different vectors (n, d) of length 1, and the evenness of their dimensions.

    With s = Σ x, the n (n - 1) cosines of pairs sum to |s|² - n. Evenness is the participation ratio of the variances
    per dimension, (Σ v)² / (d Σ v²): 1 where all are equal, 1/d where there is only one.
    """
    unit = x.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    n, d = unit.shape
    total = unit.sum(axis=0)
    variance = unit.var(axis=0)
    ratio = variance.sum() ** 2 / max(d * (variance**2).sum(), np.finfo(np.float64).tiny)
    return {"mean_cosine": float((total @ total - n) / (n * (n - 1))), "evenness": float(ratio), "dimensions": float(d)}


def fit_items(recipe: Recipe, lists: Lists) -> Iterator[DriftItem]:
    """Yield what to measure: the whitening, if it was fitted here, and the codebook."""
    rows = manifests.total(lists.descriptors, "rows")
    if not rows:
        return
    fits: list[tuple[str, Artifact | None]] = []
    if recipe.whiten is not None and recipe.whiten.method != "file":
        fits.append((WHITENING, recipe.whiten.artifact))
    if recipe.encode is not None:
        fits.append((CODEBOOK, recipe.encode.artifact))
    files = sample_files(lists.descriptors, min(SAMPLE, rows), SEED)
    tombstones = manifests.tombstones(lists.tombstones)
    dead = tuple((file.id, tuple(tombstones[file.id].tolist())) for file in files if file.id in tombstones)
    for kind, artifact in fits:
        if artifact is not None:
            yield DriftItem(kind=kind, trained=artifact, files=files, sample=min(SAMPLE, rows), rows=rows, dead=dead)


def judged_fits(now: dict[str, Health], before: tuple[Fitness, ...]) -> tuple[Fitness, ...]:
    """Compare with the first values of the same fit; those of a new fit are its own yardstick."""
    known = {fit.kind: fit.trained for fit in before}
    judged = []
    for kind, health in sorted(now.items()):
        first = known.get(kind)
        if first is None or first.trained != health.trained:
            first = health
        elif health.values and not first.values:
            # There were too few to measure: the values are of now, the size is of then.
            first = health.model_copy(update={"rows": first.rows})
        judged.append(Fitness(kind=kind, trained=first, now=health, drifted=tuple(_drifted(first, health))))
    return tuple(judged)


def _drifted(first: Health, now: Health) -> Iterator[str]:
    then, values = first.values, now.values
    if not then or not values:
        return
    if first.rows < LEAST_PER_DIM * then["dimensions"] and now.rows >= GROWTH * first.rows:
        yield f"fitted when there were {first.rows} vectors for {then['dimensions']:g} dimensions, now {now.rows}"
    if values["mean_cosine"] > then["mean_cosine"] + MEAN_COSINE:
        yield f"mean cosine of two images {values['mean_cosine']:.3f}, {then['mean_cosine']:.3f} at the fit"
    if values["evenness"] < EVENNESS * then["evenness"]:
        yield f"evenness of the dimensions {values['evenness']:.3f}, {then['evenness']:.3f} at the fit"
    error, old = values.get("quantisation_error"), then.get("quantisation_error")
    if error is not None and old is not None and error > QUANTISATION * old:
        yield f"quantisation error {error:.3g}, {old:.3g} at the fit"


def _quantisation(catalog: Catalog, recipe: Recipe, item: DriftItem) -> float | None:
    """Return the mean squared distance of kept local descriptors to their words; None where none are kept."""
    assert recipe.encode is not None, "only what a recipe has is measured"
    if not recipe.encode.keep or recipe.encode.method == "mop":
        return None
    encoder = Encoder.from_bytes(recipe.encode, catalog.read(item.trained))
    parts = [_kept(catalog, file) for file in item.files[:LOCAL_FILES]]
    x = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    return encoder.quantisation_error(x) if len(x) else None


def _kept(catalog: Catalog, file: DescriptorFile) -> Floats:
    with staging.folder() as folder:
        reader = DescriptorReader(catalog.fetch(file.artifact, Path(folder)), file.artifact.uri)
        step = max(1, reader.rows // LOCAL_IMAGES)
        kept = [reader.take_local(image).vectors for image in range(0, reader.rows, step)[:LOCAL_IMAGES]]
    return np.concatenate(kept) if kept else np.zeros((0, reader.local_dim), np.float32)
