"""The plug-ins of a recipe with their own types; publishing holds them as plain Specs."""

from __future__ import annotations

from typing import cast

from pipeline.core.errors import UserError
from pipeline.extract import ExtractSpec
from pipeline.index import IndexSpec
from pipeline.publish.recipe import Recipe
from pipeline.sources import SourceSpec


def source_spec(recipe: Recipe) -> SourceSpec:
    """Return the recipe's source."""
    return cast("SourceSpec", recipe.source)


def extract_spec(recipe: Recipe) -> ExtractSpec:
    """Return the recipe's extractor."""
    return cast("ExtractSpec", recipe.extractor)


def index_specs(recipe: Recipe) -> tuple[IndexSpec, ...]:
    """Return the recipe's index kinds."""
    return cast("tuple[IndexSpec, ...]", recipe.indexes)


def index_spec(recipe: Recipe, kind: str) -> IndexSpec:
    """Return one index kind of the recipe; a UserError names those it has."""
    for spec in index_specs(recipe):
        if spec.kind == kind:
            return spec
    known = ", ".join(spec.kind for spec in recipe.indexes) or "none"
    raise UserError(f"--index {kind}", f"is not in this snapshot, which has {known}", "choose one of those")


def check_binary(recipe: Recipe, head: Recipe | None) -> None:
    """Raise a UserError when signs are kept of descriptors that are never negative: all codes would be alike.

    Whitening centres them, and so do thresholds. What the head has by the same settings is published, and stays.
    """
    counts = recipe.encode is not None and recipe.encode.method == "bow"
    positive = counts if recipe.encode is not None else extract_spec(recipe).nonnegative
    if recipe.whiten is not None or not positive:
        return
    what = f"of {extract_spec(recipe).label} are never negative: every image would have the same code"
    if recipe.dtype == "binary" and (head is None or head.dtype != "binary"):
        raise UserError("--dtype binary", f"keeps signs, and values {what}", "use --whiten pca, or --dtype float16")
    for spec in index_specs(recipe):
        if spec.signs_alone and (head is None or spec not in head.indexes):
            raise UserError(
                f"index {spec.kind}", f"keeps signs, and values {what}", "set thresholds = true, or --whiten pca"
            )
