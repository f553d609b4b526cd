"""Recipes: what each of the recipes that are derived from one leaves out, and what their ids depend on."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.core.specs import spec_class
from pipeline.core.types import Artifact
from pipeline.features.encoding import EncodeSpec
from pipeline.publish.recipe import Recipe
from pipeline.whiten import WhitenSpec

FITTED = Artifact(uri="artifacts/x/fit.safetensors", sha256="f" * 64, bytes=1)
FLAT = spec_class("pipeline.index", "flat")()
LSH = spec_class("pipeline.index", "lsh")()
RECIPE = Recipe(
    source=spec_class("pipeline.sources", "tar").model_validate({"metadata": {"year": "int64"}}),
    extractor=spec_class("pipeline.extract", "sift")(),
    encode=EncodeSpec(method="vlad", artifact=FITTED),
    whiten=WhitenSpec(dims=8, artifact=FITTED),
    dtype="float16",
    indexes=(FLAT, LSH),
)


def but(**update: Any) -> Recipe:
    return RECIPE.model_copy(update=update)


def test_a_recipe_survives_its_json_and_refuses_what_it_does_not_know() -> None:
    data = RECIPE.model_dump(mode="json")
    assert Recipe.model_validate(data) == RECIPE
    with pytest.raises(ValidationError):
        Recipe.model_validate({**data, "more": 1})


def test_a_recipe_is_a_value_that_nobody_changes() -> None:
    for name in Recipe.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(RECIPE, name, getattr(RECIPE, name))


def test_whitening_is_fitted_from_unwhitened_descriptors_in_full_precision() -> None:
    assert RECIPE.raw == but(whiten=None, dtype="float32", indexes=())


def test_a_codebook_is_fitted_from_local_descriptors_as_they_are() -> None:
    binary = but(dtype="float32")
    assert binary.local == but(encode=None, whiten=None, dtype="float16", indexes=())


def test_the_recipe_as_stated_has_no_digests_of_fits_but_that_of_a_file_which_the_user_gave() -> None:
    stated = RECIPE.declared
    assert stated == but(whiten=WhitenSpec(dims=8), encode=EncodeSpec(method="vlad"))
    given = but(whiten=WhitenSpec(method="file", artifact=FITTED), encode=None)
    assert given.declared == given
    assert but(whiten=None, encode=None).declared == but(whiten=None, encode=None)


def test_no_descriptor_depends_on_metadata() -> None:
    bare = but(source=spec_class("pipeline.sources", "tar")())
    assert RECIPE.bare == bare != RECIPE
    assert bare.bare == bare
    folder = but(source=spec_class("pipeline.sources", "folder")())
    assert folder.bare is folder, "it carries none"


def test_descriptors_are_taken_from_recipes_of_other_metadata_alone() -> None:
    other = but(source=spec_class("pipeline.sources", "tar").model_validate({"metadata": {"license": "string"}}))
    bare = RECIPE.bare.descriptor_id
    assert RECIPE.donors(None) == (bare,)
    assert RECIPE.donors(other) == (other.descriptor_id, bare)
    assert RECIPE.donors(RECIPE) == (bare,), "a recipe takes nothing from itself"
    assert RECIPE.donors(RECIPE.bare) == (bare,), "and nothing twice"
    assert RECIPE.donors(but(dtype="float32")) == (bare,), "those of the head are not equal"
    assert RECIPE.bare.donors(None) == ()
    assert RECIPE.bare.donors(RECIPE) == (RECIPE.descriptor_id,)


def test_ids_of_folders_depend_on_what_is_in_them_alone() -> None:
    more = but(indexes=(FLAT,))
    assert (more.descriptor_id, more.source_id) == (RECIPE.descriptor_id, RECIPE.source_id)
    assert more.fingerprint != RECIPE.fingerprint
    assert more.index_id(FLAT) == RECIPE.index_id(FLAT) != RECIPE.index_id(LSH)
    coarse = but(dtype="float32")
    assert coarse.source_id == RECIPE.source_id
    assert coarse.descriptor_id != RECIPE.descriptor_id
    assert coarse.index_id(FLAT) != RECIPE.index_id(FLAT)
    assert RECIPE.bare.source_id != RECIPE.source_id
    ids = (RECIPE.descriptor_id, RECIPE.source_id, RECIPE.index_id(FLAT))
    assert [len(name) for name in ids] == [20, 20, 20]
    assert RECIPE.source.fingerprint.startswith(RECIPE.source_id)


def test_once_fitted_whitening_is_known_by_its_digest_wherever_it_lies() -> None:
    moved = FITTED.model_copy(update={"uri": "elsewhere"})
    assert but(whiten=WhitenSpec(dims=8, artifact=moved)).fingerprint == RECIPE.fingerprint
    assert but(whiten=WhitenSpec(dims=9, artifact=FITTED)).fingerprint == RECIPE.fingerprint
    again = FITTED.model_copy(update={"sha256": "e" * 64})
    assert but(whiten=WhitenSpec(dims=8, artifact=again)).fingerprint != RECIPE.fingerprint
    assert len({but(whiten=fit).fingerprint for fit in (None, WhitenSpec(), WhitenSpec(dims=8))}) == 3
