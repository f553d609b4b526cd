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
