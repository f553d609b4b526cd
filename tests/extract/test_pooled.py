from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from jobs.weights import Weights, named_weights
from pipeline.checkpoints import read_checkpoint
from pipeline.core.errors import BadImageError, IntegrityError, UserError
from pipeline.core.local import LocalStore
from pipeline.core.specs import spec_from_json
from pipeline.core.types import Artifact
from pipeline.extract.pooled import Spec
from pipeline.publish.catalog import Catalog
from tests.builders import jpeg

CPU = torch.device("cpu")


def stored(folder: Path, weights: Weights) -> tuple[LocalStore, Artifact]:
    store = LocalStore(str(folder))
    return store, Catalog(store).put_artifact(weights.to_bytes(), "model.safetensors")


def built(folder: Path, backbone: str = "squeezenet1_1", weights: Weights | None = None, **fields: Any) -> Any:
    store, artifact = stored(folder, weights or named_weights(backbone, "random:0"))
    fields = {"resize": "longest:64", **fields}
    return Spec(backbone=backbone, weights=artifact, **fields).build(store, CPU)


KINDS: list[dict[str, Any]] = [
    {"pooling": "gem"},
    {"pooling": "mac"},
    {"pooling": "spoc"},
    {"pooling": "crow"},
    {"pooling": "rmac"},
    {"pooling": "raac"},
    {"pooling": "gem", "scales": (1.0, 0.7071, 0.5)},
    {"pooling": "gem", "scales": (1.0, 0.5), "scale_resize": "image", "scale_pooling": "signed"},
    {"pooling": "gem", "precision": "bf16"},
    {"pooling": "rmac", "rmac_grid": "overlap"},
]


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_an_image_alone_and_in_a_batch_has_the_same_unit_vector(tmp_path: Path, fields: dict[str, Any]) -> None:
    extractor = built(tmp_path, **fields)
    images = [extractor.prepare(jpeg(seed)) for seed in range(5)]
    together = extractor.extract(images).vectors
    alone = np.concatenate([extractor.extract([image]).vectors for image in images])
    assert together.shape == (5, extractor.dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    assert np.einsum("nd,nd->n", together, alone).min() > (0.999999 if fields.get("precision") != "bf16" else 0.999)
    again = extractor.extract(images).vectors
    np.testing.assert_array_equal(together, again)


def test_different_images_have_different_vectors(tmp_path: Path) -> None:
    extractor = built(tmp_path)
    a, b = (extractor.extract([extractor.prepare(jpeg(seed))]).vectors[0] for seed in (1, 2))
    assert float(a @ b) < 0.99999


@pytest.mark.parametrize("size", [(64, 48), (33, 65), (200, 40), (41, 199)])
def test_odd_sizes_are_described(tmp_path: Path, size: tuple[int, int]) -> None:
    extractor = built(tmp_path, resize="none")
    assert np.isfinite(extractor.extract([extractor.prepare(jpeg(3, *size))]).vectors).all()


def test_an_image_too_small_for_the_backbone_is_rejected_with_the_reason(tmp_path: Path) -> None:
    extractor = built(tmp_path)
    with pytest.raises(BadImageError, match="squeezenet1_1 needs 17 pixels"):
        extractor.prepare(jpeg(1, 60, 16))
    with pytest.raises(BadImageError, match=r"60x16 after resizing, 0.5 times that is its largest scale"):
        built(tmp_path, scales=(0.5, 0.25)).prepare(jpeg(1, 60, 16))


@pytest.mark.parametrize("scale_resize", ["tensor", "image"])
def test_a_small_image_is_described_by_the_scales_that_fit(tmp_path: Path, scale_resize: str) -> None:
    every = built(tmp_path, scales=(1.0, 0.7071, 0.25), scale_resize=scale_resize)
    fitting = built(tmp_path, scales=(1.0, 0.7071), scale_resize=scale_resize)
    image = every.prepare(jpeg(1, 64, 48))
    np.testing.assert_array_equal(every.extract([image]).vectors, fitting.extract([image]).vectors)


def test_an_image_that_is_large_enough_is_described_by_all_scales(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"resize": "none", "scale_pooling": "mean"}
    both = built(tmp_path, scales=(1.0, 0.25), **fields)
    alone = [built(tmp_path, scales=(scale,), **fields) for scale in (1.0, 0.25)]
    image = both.prepare(jpeg(1, 68, 68))
    total = np.sum([one.extract([image]).vectors for one in alone], axis=0)
    np.testing.assert_allclose(both.extract([image]).vectors, total / np.linalg.norm(total), atol=1e-5)


def test_settings_survive_json_and_defaults_stay_out_of_the_fingerprint(tmp_path: Path) -> None:
    _, artifact = stored(tmp_path, named_weights("squeezenet1_1", "random:0"))
    spec = Spec(backbone="squeezenet1_1", weights=artifact, origin="random:0", scales=(1.0, 0.5))
    assert spec_from_json("pipeline.extract", json.loads(json.dumps(spec.to_json()))) == spec
    plain = Spec(backbone="squeezenet1_1", weights=artifact)
    assert Spec(backbone="squeezenet1_1", weights=artifact, gem_p=3.0).fingerprint == plain.fingerprint
    assert plain.model_copy(update={"origin": "elsewhere"}).fingerprint == plain.fingerprint
    moved = artifact.model_copy(update={"uri": "elsewhere"})
    assert plain.model_copy(update={"weights": moved}).fingerprint == plain.fingerprint
    assert spec.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    "fields",
    [{"backbone": "nonesuch"}, {"scales": ()}, {"scales": (5.0,)}, {"gem_p": 0.0}, {"rmac_levels": 0}, {"x": 1}],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    _, artifact = stored(tmp_path, named_weights("squeezenet1_1", "random:0"))
    with pytest.raises(ValidationError):
        Spec(**{"backbone": "squeezenet1_1", "weights": artifact, **fields})


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    store, artifact = stored(tmp_path, named_weights("squeezenet1_1", "random:0"))
    path = tmp_path / artifact.uri
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="sha256"):
        Spec(backbone="squeezenet1_1", weights=artifact).build(store, CPU)


def test_weights_of_another_backbone_are_refused_by_name(tmp_path: Path) -> None:
    store, artifact = stored(tmp_path, named_weights("squeezenet1_1", "random:0"))
    with pytest.raises(UserError, match=r"conv1\.weight"):
        Spec(backbone="resnet18", weights=artifact).build(store, CPU)


def test_a_projection_that_the_weights_lack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"projection\.weight"):
        built(tmp_path, projection=True)


def test_region_whitening_and_learned_exponents_come_from_the_weights(tmp_path: Path) -> None:
    weights = named_weights("squeezenet1_1", "random:0")
    extras = {
        "regional.p": torch.tensor([2.5]),
        "regional.weight": torch.rand(32, 512),
        "regional.bias": torch.zeros(32),
    }
    extractor = built(
        tmp_path, weights=Weights(tensors={**weights.tensors, **extras}, origin="x"), regional=True, gem_p=None
    )
    assert extractor.dim == 32
    assert extractor.extract([extractor.prepare(jpeg(1))]).vectors.shape == (1, 32)


def golden_value(key: int, shape: list[int], name: str) -> torch.Tensor:
    """The rule by which golden/README.md fills the reference network."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.long)
    if name == "adpool.p":
        return torch.tensor([2.7])
    j = np.arange(int(np.prod(shape)), dtype=np.float64)
    v = np.sin(12.9898 * j + 78.233 * key) * 43758.5453
    v = v - np.floor(v)
    if len(shape) >= 2:
        v = (v - 0.5) * 2 * np.sqrt(3) * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith(("running_var", "weight")):
        v = 0.5 + v
    else:
        v = 0.1 * (v - 0.5)
    return torch.from_numpy(v.reshape(shape).astype(np.float32))


def test_a_dir_network_reproduces_the_reference_descriptors(real_data: Path, golden_data: Path, tmp_path: Path) -> None:
    body = json.loads((golden_data / "dir_resnet18_keys.json").read_text())
    state = {name: golden_value(number, shape, name) for number, (name, shape) in enumerate(body["keys"])}
    torch.save({"state_dict": state, "model_options": body["model_options"]}, tmp_path / "dir.pt")
    checkpoint = read_checkpoint(tmp_path / "dir.pt")
    assert checkpoint.backbone == "resnet18"
    extractor = built(
        tmp_path,
        "resnet18",
        Weights(tensors=checkpoint.tensors, origin="dir"),
        **{**checkpoint.settings, "resize": "none"},
    )
    golden = np.load(golden_data / "dir_resnet18.npz", allow_pickle=False)
    for name, expected in zip(golden["files"], golden["desc"], strict=True):
        image = extractor.prepare((real_data / "museum" / "qsd2_w1" / str(name)).read_bytes())
        np.testing.assert_allclose(extractor.extract([image]).vectors[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["gem", "mac", "spoc", "rmac"])
@pytest.mark.parametrize("scales", ["ss", "ms"])
def test_squeezenet_reproduces_the_reference_descriptors(
    real_data: Path, golden_data: Path, tmp_path: Path, pooling: str, scales: str
) -> None:
    file = real_data / "weights" / "squeezenet1_0_imagenet_fp16.pth"
    fields = {"pooling": pooling, "resize": "longest:384"}
    if scales == "ms":
        fields["scales"] = (1.0, 2**-0.5, 0.5)  # type: ignore[assignment]
    extractor = built(tmp_path, "squeezenet1_0", named_weights("squeezenet1_0", str(file)), **fields)
    golden = np.load(golden_data / "squeezenet_museum.npz", allow_pickle=False)
    for name, expected in zip(golden["files"], golden[f"{pooling}_{scales}"], strict=True):
        image = extractor.prepare((real_data / "museum" / "qsd2_w1" / str(name)).read_bytes())
        np.testing.assert_allclose(extractor.extract([image]).vectors[0], expected, rtol=1e-4, atol=2e-6)


def test_a_class_token_is_described_alone_and_in_company(tmp_path: Path) -> None:
    name = "timm:vit_tiny_patch16_224"
    extractor = built(tmp_path, name, named_weights(name, "random:0"), pooling="cls")
    images = [extractor.prepare(jpeg(seed)) for seed in range(3)]
    together = extractor.extract(images).vectors
    assert together.shape == (3, 192)
    alone = np.concatenate([extractor.extract([image]).vectors for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_local_whitening_is_a_linear_map_of_each_position(tmp_path: Path) -> None:
    torch.manual_seed(0)
    named = named_weights("squeezenet1_1", "random:0")
    extra = {"local.weight": torch.randn(24, 512), "local.bias": torch.rand(24)}
    weights = Weights(tensors={**named.tensors, **extra}, origin="random:0")
    extractor = built(tmp_path, weights=weights, local_whitening=True, pooling="spoc")
    image = extractor.prepare(jpeg(1))
    features = extractor.feature_map(image)
    positions = features.flatten(1).T @ extra["local.weight"].T + extra["local.bias"]
    expected = torch.nn.functional.normalize(positions.mean(dim=0), dim=0)
    np.testing.assert_allclose(extractor.extract([image]).vectors[0], expected.numpy(), atol=1e-5)


def test_the_last_max_pool_halves_the_map(tmp_path: Path) -> None:
    named = named_weights("alexnet", "random:0")
    kept, cut = (
        built(tmp_path / str(flag), "alexnet", named, last_pool=flag, pooling="spoc", resize="none")
        for flag in (True, False)
    )
    image = kept.prepare(jpeg(1, 160, 160))
    pooled = torch.nn.functional.max_pool2d(cut.feature_map(image)[None], 2).mean(dim=(2, 3))[0]
    expected = torch.nn.functional.normalize(pooled, dim=0)
    np.testing.assert_allclose(kept.extract([image]).vectors[0], expected.numpy(), atol=1e-5)


def test_settings_of_one_backbone_are_refused_for_another(tmp_path: Path) -> None:
    for fields, what in (({"pooling": "cls"}, "class token"), ({"last_pool": True}, "max-pool")):
        with pytest.raises(ValidationError, match=what):
            built(tmp_path, **fields)
