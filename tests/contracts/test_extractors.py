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
from pipeline.core.types import Artifact
from pipeline.extract import Extractor, ExtractSpec
from pipeline.extract.delf import Spec as DelfSpec
from pipeline.extract.histogram import Spec as HistogramSpec
from pipeline.extract.hog import Spec as HogSpec
from pipeline.extract.mop import Spec as MopSpec
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.extract.precomputed import Spec as PrecomputedSpec
from pipeline.extract.sift import Spec as SiftSpec
from pipeline.publish.catalog import Catalog
from tests.builders import jpeg

FAMILY = "pipeline.extract"
Sample = Callable[[int], bytes]


def pooled(store: LocalStore) -> ExtractSpec:
    return PooledSpec(
        backbone="squeezenet1_1", weights=weights(store, "squeezenet1_1"), origin="random:0", resize="longest:96"
    )


def precomputed(store: LocalStore) -> ExtractSpec:
    return PrecomputedSpec(dim=48, origin="a test")


def vector(seed: int) -> bytes:
    return np.random.default_rng(seed).normal(size=48).astype("<f4").tobytes()


def weights(store: LocalStore, backbone: str) -> Artifact:
    return Catalog(store).put_artifact(named_weights(backbone, "random:0").to_bytes(), "model.safetensors")


def delf(store: LocalStore) -> ExtractSpec:
    return DelfSpec(
        backbone="resnet18", weights=weights(store, "resnet18"), origin="random:0", resize="longest:128", features=40
    )


def mop(store: LocalStore) -> ExtractSpec:
    made = weights(store, "squeezenet1_1")
    return MopSpec(backbone="squeezenet1_1", weights=made, origin="random:0", side=64, patches=(64, 32), stride=16)


BUILDERS: dict[str, Callable[[LocalStore], ExtractSpec]] = {
    "pooled": pooled,
    "precomputed": precomputed,
    "delf": delf,
    "mop": mop,
    "sift": lambda store: SiftSpec(features=60),
    "hog": lambda store: HogSpec(),
    "histogram": lambda store: HistogramSpec(grid=2),
}
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
    assert together.vectors.shape == (len(together.image_row), extractor.dim)
    assert set(together.image_row.tolist()) == set(range(6))
    assert (np.diff(together.image_row) >= 0).all()
    for row, image in enumerate(images):
        alone, mine = extractor.extract([image]), together.of(row)
        assert (np.einsum("nd,nd->n", alone.vectors, mine.vectors) > 0.999999).all()
        if mine.boxes is not None and alone.boxes is not None:
            np.testing.assert_allclose(alone.boxes, mine.boxes)


def test_a_kind_says_whether_it_computes_on_a_gpu(
    spec: ExtractSpec, extractor: Extractor, sample: Sample, tmp_path: Path
) -> None:
    """A kind that computes on no device gives the same on any; on "meta" a network has no values."""
    nowhere = torch.device("meta")
    if spec.gpu:
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            vectors_of(spec.build(LocalStore(str(tmp_path)), nowhere), sample)
        return
    elsewhere = spec.build(LocalStore(str(tmp_path)), nowhere)
    np.testing.assert_array_equal(vectors_of(elsewhere, sample), vectors_of(extractor, sample))


def vectors_of(extractor: Extractor, sample: Sample) -> np.ndarray:
    return extractor.extract([extractor.prepare(sample(seed)) for seed in range(2)]).vectors


def test_local_descriptors_say_where_they_are(extractor: Extractor, spec: ExtractSpec, sample: Sample) -> None:
    image = extractor.prepare(sample(1))
    batch = extractor.extract([image])
    assert batch.is_local == spec.local
    if batch.boxes is None:
        assert len(batch.vectors) == 1
        return
    assert batch.scales is not None
    assert batch.scores is not None
    assert len(batch.boxes) == len(batch.scales) == len(batch.scores) == len(batch.vectors) > 1
    assert (batch.boxes[:, 2:] > batch.boxes[:, :2]).all()
    centres = (batch.boxes[:, :2] + batch.boxes[:, 2:]) / 2
    assert (centres >= -1).all()
    assert (centres <= [image.width + 1, image.height + 1]).all()


def test_vectors_repeat_themselves_to_the_bit(extractor: Extractor, sample: Callable[[int], bytes]) -> None:
    images = [extractor.prepare(sample(seed)) for seed in range(3)]
    np.testing.assert_array_equal(extractor.extract(images).vectors, extractor.extract(images).vectors)


@pytest.mark.parametrize("size", [(64, 64), (200, 60), (60, 200), (97, 101)])
def test_odd_sizes_give_finite_unit_vectors(spec: ExtractSpec, extractor: Extractor, size: tuple[int, int]) -> None:
    if spec.kind in SAMPLES:
        pytest.skip("takes no images")
    image = extractor.prepare(jpeg(1, *size))
    assert (image.width, image.height) == size
    vectors = extractor.extract([image]).vectors
    assert len(vectors)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-4)


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
