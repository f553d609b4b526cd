"""What every extractor promises: one vector per image whatever its company, repeatable, finite, described by JSON."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.weights import named_weights
from pipeline.core.errors import BadImageError
from pipeline.core.local import LocalStore
from pipeline.core.specs import kinds, spec_from_json
from pipeline.extract import Extractor, ExtractSpec
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.extract.precomputed import Spec as PrecomputedSpec
from pipeline.publish.catalog import Catalog
from tests.builders import jpeg

FAMILY = "pipeline.extract"


def pooled(store: LocalStore) -> ExtractSpec:
    weights = Catalog(store).put_artifact(named_weights("squeezenet1_1", "random:0").to_bytes(), "model.safetensors")
    return PooledSpec(backbone="squeezenet1_1", weights=weights, origin="random:0", resize="longest:96")


def precomputed(store: LocalStore) -> ExtractSpec:
    return PrecomputedSpec(dim=48, origin="a test")


def vector(seed: int) -> bytes:
    return np.random.default_rng(seed).normal(size=48).astype("<f4").tobytes()


BUILDERS: dict[str, Callable[[LocalStore], ExtractSpec]] = {"pooled": pooled, "precomputed": precomputed}
SAMPLES: dict[str, Callable[[int], bytes]] = {"precomputed": vector}
"""What a kind is given where that is no image."""


@pytest.fixture(params=kinds(FAMILY))
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> ExtractSpec:
    assert request.param in BUILDERS, f"give the extractor kind {request.param} a builder here"
    return BUILDERS[request.param](LocalStore(str(tmp_path)))


@pytest.fixture
def sample(spec: ExtractSpec) -> Callable[[int], bytes]:
    return SAMPLES.get(spec.kind, jpeg)


@pytest.fixture
def extractor(spec: ExtractSpec, tmp_path: Path) -> Extractor:
    return spec.build(LocalStore(str(tmp_path)), torch.device("cpu"))


def test_company_changes_no_vector(extractor: Extractor, sample: Callable[[int], bytes]) -> None:
    images = [extractor.prepare(sample(seed)) for seed in range(6)]
    together = extractor.extract(images)
    assert together.vectors.shape == (6, extractor.dim)
    assert together.image_row.tolist() == list(range(6))
    for row, image in enumerate(images):
        alone = extractor.extract([image]).vectors[0]
        assert float(alone @ together.vectors[row]) > 0.999999


def test_vectors_repeat_themselves_to_the_bit(extractor: Extractor, sample: Callable[[int], bytes]) -> None:
    images = [extractor.prepare(sample(seed)) for seed in range(3)]
    np.testing.assert_array_equal(extractor.extract(images).vectors, extractor.extract(images).vectors)


@pytest.mark.parametrize("size", [(64, 64), (200, 60), (60, 200), (97, 101)])
def test_odd_sizes_give_finite_unit_vectors(spec: ExtractSpec, extractor: Extractor, size: tuple[int, int]) -> None:
    if spec.kind in SAMPLES:
        pytest.skip("takes no images")
    image = extractor.prepare(jpeg(1, *size))
    assert (image.width, image.height) == size
    (vector,) = extractor.extract([image]).vectors
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("data", [b"", b"nothing", jpeg(1)[:200], jpeg(1, 1, 1)])
def test_images_that_cannot_be_used_say_why(extractor: Extractor, data: bytes) -> None:
    with pytest.raises(BadImageError, match=r"\w"):
        extractor.prepare(data)


def test_settings_survive_json_and_a_process_border(spec: ExtractSpec) -> None:
    again = spec_from_json(FAMILY, json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.fingerprint == spec.fingerprint
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_the_label_says_where_descriptors_come_from(spec: ExtractSpec) -> None:
    assert getattr(spec, "origin", "") in spec.label
