"""Values of the reference implementations, in small; and fingerprints that must stay what they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.specs import kinds, spec_class
from pipeline.core.types import Artifact
from pipeline.extract.delf import Spec as DelfSpec
from pipeline.extract.mop import Spec as MopSpec
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.extract.precomputed import Spec as PrecomputedSpec
from pipeline.features.encoding import EncodeSpec
from pipeline.features.pooling import gem, mac, power_mean, signed_power_mean, spoc
from pipeline.features.regions import regional
from pipeline.index.flat import Spec as FlatSpec
from pipeline.index.ivfpq import Spec as IvfPqSpec
from pipeline.publish.recipe import Recipe
from pipeline.search.expand import augment, expand
from pipeline.sources.tar import Spec as TarSpec
from pipeline.whiten import WhitenSpec, from_components

FOLDER = Path(__file__).parent / "golden"
REFERENCE = np.load(FOLDER / "reference.npz", allow_pickle=False)
POOLED = [name for name in REFERENCE.files if name.startswith("pooling.") and not name.endswith("_x")]


@pytest.mark.parametrize("name", POOLED)
def test_pooling_is_the_reference_s(name: str) -> None:
    map_name, _, kind = name.removeprefix("pooling.").partition("_")
    x = torch.from_numpy(REFERENCE[f"pooling.{map_name}_x"])
    ours = {"mac": mac, "spoc": spoc}[kind](x) if kind in ("mac", "spoc") else gem(x, float(kind.removeprefix("gem_p")))
    np.testing.assert_allclose(ours.numpy(), REFERENCE[name], rtol=1e-4)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_rmac_is_the_reference_s(levels: int) -> None:
    ours = regional(torch.from_numpy(REFERENCE["rmac.tiny2x3_x"]), levels=levels)
    np.testing.assert_allclose(ours.numpy(), REFERENCE[f"rmac.tiny2x3_rmac_L{levels}"], rtol=1e-4)


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("dims", [None, 8])
def test_dir_whitening_is_the_reference_s(power: float, dims: int | None) -> None:
    parts = (REFERENCE[f"dir.{name}"] for name in ("mean", "components", "explained_variance"))
    ours = from_components(*parts, power=power, dims=dims).apply(REFERENCE["dir.X"].astype(np.float32))
    np.testing.assert_allclose(ours, REFERENCE[f"dir.whitenp{power}_whitenv{dims}"], rtol=1e-4, atol=1e-6)


def test_expansion_and_pooling_over_scales_are_the_reference_s() -> None:
    db, queries = REFERENCE["expand.db"].astype(np.float32), REFERENCE["expand.q"].astype(np.float32)
    nearest = np.argsort(-(queries @ db.T), axis=1)[:, :5]
    np.testing.assert_allclose(expand(queries, db[nearest], 3), REFERENCE["expand.aqe_k5_a3"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(augment(db, 5, 3), REFERENCE["expand.adba_k5_a3"], rtol=1e-4, atol=1e-6)
    scales = [torch.from_numpy(value) for value in REFERENCE["expand.scales"]]
    for ours, name in ((signed_power_mean(scales), "gem3"), (power_mean(scales, 1.0), "mean")):
        unit = torch.nn.functional.normalize(ours).numpy()
        np.testing.assert_allclose(unit, REFERENCE[f"expand.scales_{name}"], rtol=1e-4, atol=1e-6)


def fingerprints() -> dict[str, str]:
    """The fingerprints of every kind at its defaults, and of one whole recipe before and after fitting."""
    weights = Artifact(uri="artifacts/a/model.safetensors", sha256="a" * 64, bytes=1)
    pooled = PooledSpec(backbone="resnet50", weights=weights, origin="imagenet")
    recipe = Recipe(source=TarSpec(), extractor=pooled, whiten=WhitenSpec(dims=512), indexes=(FlatSpec(), IvfPqSpec()))
    whitened = WhitenSpec(dims=512, artifact=weights)
    families = ("pipeline.sources", "pipeline.index")
    found = {
        f"{family}.{kind}": spec_class(family, kind)().fingerprint for family in families for kind in kinds(family)
    }
    found["pipeline.extract.pooled"] = pooled.fingerprint
    found["pipeline.extract.precomputed"] = PrecomputedSpec(dim=512, origin="a model").fingerprint
    found["pipeline.extract.delf"] = DelfSpec(weights=weights, origin="imagenet").fingerprint
    found["pipeline.extract.mop"] = MopSpec(backbone="alexnet", weights=weights, origin="imagenet").fingerprint
    for kind in ("sift", "hog", "histogram"):
        found[f"pipeline.extract.{kind}"] = spec_class("pipeline.extract", kind)().fingerprint
    encoded = Recipe(
        source=TarSpec(), extractor=spec_class("pipeline.extract", "sift")(), encode=EncodeSpec(method="vlad")
    )
    found["recipe, encoded"] = encoded.fingerprint
    fitted = EncodeSpec(method="vlad", artifact=weights)
    found["recipe, encoded and fitted"] = encoded.model_copy(update={"encode": fitted}).fingerprint
    for kind in ("tar", "parquet", "arrow"):
        declared = {"license": "string", "year": "int64:taken.year"}
        told = spec_class("pipeline.sources", kind).model_validate({"metadata": declared})
        found[f"pipeline.sources.{kind}, metadata"] = told.fingerprint
        if kind == "tar":
            found["recipe, metadata"] = recipe.model_copy(update={"source": told}).descriptor_id
    found["recipe, declared"] = recipe.fingerprint
    found["recipe, fitted"] = recipe.model_copy(update={"whiten": whitened}).fingerprint
    found["recipe, descriptors"] = recipe.descriptor_id
    found["recipe, ivfpq"] = recipe.index_id(IvfPqSpec())
    return found


def test_fingerprints_stay_what_they_are() -> None:
    pinned = json.loads((FOLDER / "fingerprints.json").read_text())
    found = fingerprints()
    assert {name: found.get(name) for name in pinned} == pinned
    assert set(found) == set(pinned), "pin the fingerprint of a new kind in tests/golden/fingerprints.json"
