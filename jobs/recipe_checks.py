"""What a run can refuse before it reads the first image: dimensions, whitening, codebook, index settings, memory.

The extractor is built once for it, on the CPU, where its recipe is new; of a recipe that goes on the descriptor files
know their length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.core import staging
from pipeline.core.artifacts import read_artifact
from pipeline.core.errors import UserError
from pipeline.core.storage import Store
from pipeline.core.types import Artifact
from pipeline.features.encoding import Encoder
from pipeline.publish import manifests
from pipeline.publish.lists import Lists
from pipeline.publish.plan import Plan
from pipeline.publish.recipe import Recipe
from pipeline.stages.fit import sample_shards, unreachable
from pipeline.stages.kinds import extract_spec, index_specs, source_spec
from pipeline.stages.trial import stage_weights
from pipeline.whiten import Whitening

BYTES_PER_IMAGE = 1 << 10
"""No container holds more images than its size over this; with one image each, the bounds of what is not listed."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What is to be checked: a recipe with the bytes that are not stored yet, the plan, and the lists it builds on."""

    recipe: Recipe
    blobs: dict[str, bytes]
    plan: Plan
    base: Lists


def check_recipe(checked: Checked, root: Store, *, memory_bytes: int | None) -> None:
    """Raise the UserError that the run would end with; see the module. memory_bytes: budget of a loaded index."""
    if not checked.plan.count("add"):
        return
    known = checked.base.descriptors
    dim = known["dim"][0].as_py() if known.num_rows else _dim(checked, root)
    trained = {shard.kind for shard in manifests.index_shards(checked.base.indexes)}
    fewest, most = _rows(checked)
    for spec in index_specs(checked.recipe):
        if spec.kind in trained:
            continue
        try:
            spec.resolve(rows=most, dim=dim, memory_bytes=memory_bytes)
        except UserError:
            # Images of containers are counted when they are read: only what fails for any number is refused.
            if fewest != most:
                spec.resolve(rows=fewest, dim=dim, memory_bytes=memory_bytes)
            else:
                raise


def _dim(checked: Checked, root: Store) -> int:
    """Return the length of the descriptors, at most, of a recipe that is new; UserError for what does not fit."""
    recipe = checked.recipe
    with staging.folder("check-") as folder:
        store = stage_weights(recipe, root, checked.blobs, folder)
        dim = extract_spec(recipe).build(store, torch.device("cpu")).dim
    if recipe.encode is not None:
        if recipe.encode.artifact is not None:
            _check_codebook(Encoder.from_bytes(recipe.encode, _read(checked, root, recipe.encode.artifact)), dim)
        dim = recipe.encode.dim(dim)
    if recipe.whiten is None:
        return dim
    if recipe.whiten.artifact is not None:
        return _whitened(Whitening.from_bytes(_read(checked, root, recipe.whiten.artifact)), recipe, dim)
    if recipe.whiten.dims is not None:
        _check_dims(checked, recipe.whiten.dims, dim)
    return recipe.whiten.dims or dim


def _read(checked: Checked, root: Store, artifact: Artifact) -> bytes:
    data = checked.blobs.get(artifact.uri)
    return data if data is not None else read_artifact(root, artifact)


def _check_codebook(encoder: Encoder, dim: int) -> None:
    wanted = encoder.input_dim()
    if wanted is not None and wanted != dim:
        raise UserError(
            "recipe", f"has a codebook for {wanted} dimensions, the extractor gives {dim}", "leave its artifact out"
        )


def _whitened(whitening: Whitening, recipe: Recipe, dim: int) -> int:
    # Of mop the length is known once it is fitted; it is `dim` at most.
    fits = whitening.input_dim <= dim if recipe.encode is not None else whitening.input_dim == dim
    if not fits:
        raise UserError(
            "whitening",
            f"takes {whitening.input_dim} dimensions, {extract_spec(recipe).label} gives {dim}",
            "give one that fits with --whiten FILE, fit one with --whiten pca, or use --whiten none",
        )
    return whitening.dim


def _check_dims(checked: Checked, dims: int, dim: int) -> None:
    if not 1 <= dims <= dim:
        raise UserError(f"--dims {dims}", f"is not between 1 and {dim}", "choose fewer dimensions")
    recipe, spec = checked.recipe, source_spec(checked.recipe)
    assert recipe.whiten is not None, "only a recipe with whitening has dimensions to check"
    if spec.packs and (recipe.encode is not None or not extract_spec(recipe).local):
        images = sum(len(shard.entries) for shard in sample_shards(checked.plan.shards(), recipe.whiten))
        if images - 1 < dims:
            raise unreachable(dims, images, max(0, images - 1))


def _rows(checked: Checked) -> tuple[int, int]:
    """Return how many vectors there will be, at least and at most."""
    rows = manifests.total(checked.base.descriptors, "rows")
    new = checked.plan.count("add")
    spec, recipe = source_spec(checked.recipe), checked.recipe
    local = extract_spec(recipe).local and recipe.encode is None
    if spec.packs and not local:
        return (max(1, rows + new),) * 2
    many = new if spec.packs else checked.plan.bytes_to_read // BYTES_PER_IMAGE
    features = getattr(recipe.extractor, "features", 1) if local else 1
    return max(1, rows + new), max(1, rows + new, rows + many * features)
