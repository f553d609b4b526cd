from __future__ import annotations

from pipeline.core.types import Artifact, Shard
from pipeline.extract.sift import Spec as SiftSpec
from pipeline.features.encoding import EncodeSpec
from pipeline.publish.recipe import Recipe
from pipeline.sources.tar import Spec as TarSpec
from pipeline.stages.fit import fit_key
from pipeline.whiten import WhitenSpec

SHARDS = [Shard(id="a", uri="a.tar", bytes=1, etag="1", entries=())]


def recipe(codebook: str) -> Recipe:
    artifact = Artifact(uri=f"artifacts/{codebook}", sha256=codebook * 64, bytes=1)
    encode = EncodeSpec(method="vlad", artifact=artifact)
    return Recipe(source=TarSpec(), extractor=SiftSpec(), encode=encode, whiten=WhitenSpec())


def test_whitening_over_another_codebook_is_another_fit() -> None:
    assert fit_key(recipe("a"), SHARDS, "whiten") != fit_key(recipe("b"), SHARDS, "whiten")
    assert fit_key(recipe("a"), SHARDS, "encode") == fit_key(recipe("b"), SHARDS, "encode")
    assert fit_key(recipe("a"), SHARDS, "encode") != fit_key(recipe("a"), SHARDS, "whiten")
