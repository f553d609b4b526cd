"""Signs are kept of descriptors only where they say something."""

from __future__ import annotations

import pytest

from pipeline.core.errors import UserError
from pipeline.core.types import Artifact
from pipeline.extract.histogram import Spec as HistogramSpec
from pipeline.extract.hog import Spec as HogSpec
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.extract.precomputed import Spec as PrecomputedSpec
from pipeline.extract.sift import Spec as SiftSpec
from pipeline.features.encoding import EncodeSpec
from pipeline.index.binary import Spec as BinarySpec
from pipeline.index.flat import Spec as FlatSpec
from pipeline.index.lsh import Spec as LshSpec
from pipeline.publish.recipe import Recipe
from pipeline.sources.folder import Spec as FolderSpec
from pipeline.stages.kinds import check_binary
from pipeline.whiten import WhitenSpec

WEIGHTS = Artifact(uri="artifacts/0/model.safetensors", sha256="0" * 64, bytes=1)
GEM = PooledSpec(backbone="resnet18", weights=WEIGHTS)
POSITIVE = [
    GEM,
    PooledSpec(backbone="convnext_tiny", weights=WEIGHTS),
    PooledSpec(backbone="vgg16", weights=WEIGHTS, pooling="rmac"),
    HistogramSpec(),
    HogSpec(),
]
SIGNED = [
    PooledSpec(backbone="resnet18", weights=WEIGHTS, projection=True),
    PooledSpec(backbone="resnet18", weights=WEIGHTS, regional=True),
    PooledSpec(backbone="convnext_tiny", weights=WEIGHTS, pooling="spoc"),
    PrecomputedSpec(dim=64, origin="hash"),
]
BY_SIGN = [
    {"dtype": "binary"},
    {"indexes": (BinarySpec(),)},
    {"indexes": (LshSpec(rotation="sample", thresholds=False),)},
]


def recipe(extractor: object, **fields: object) -> Recipe:
    return Recipe.model_validate({"source": FolderSpec(), "extractor": extractor, "indexes": (FlatSpec(),), **fields})


@pytest.mark.parametrize("fields", BY_SIGN)
def test_signs_of_values_that_are_never_negative_are_refused(fields: dict[str, object]) -> None:
    for extractor in POSITIVE:
        with pytest.raises(UserError, match="every image would have the same code"):
            check_binary(recipe(extractor, **fields), None)
        check_binary(recipe(extractor, **fields, whiten=WhitenSpec()), None)
    for signed in SIGNED:
        check_binary(recipe(signed, **fields), None)


def test_counts_of_words_are_never_negative_and_residuals_are() -> None:
    with pytest.raises(UserError, match="--dtype binary"):
        check_binary(recipe(SiftSpec(), encode=EncodeSpec(method="bow"), dtype="binary"), None)
    check_binary(recipe(SiftSpec(), encode=EncodeSpec(method="vlad"), dtype="binary"), None)


def test_thresholds_and_projections_need_no_whitening() -> None:
    indexes = (BinarySpec(thresholds=True), LshSpec(), LshSpec(rotation="sample"))
    for spec in (*indexes, BinarySpec(code="itq"), BinarySpec(code="lsh")):
        check_binary(recipe(GEM, indexes=(spec,)), None)


@pytest.mark.parametrize("fields", BY_SIGN)
def test_what_is_published_already_stays(fields: dict[str, object]) -> None:
    there = recipe(GEM, **fields)
    check_binary(there, there)
    check_binary(recipe(GEM, **{**fields, "indexes": (*there.indexes, FlatSpec())}), there)
