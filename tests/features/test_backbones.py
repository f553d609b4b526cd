from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoints import read_checkpoint
from pipeline.core.errors import UserError
from pipeline.features.backbones import (
    BACKBONES,
    backbone,
    build_backbone,
    imagenet_tensors,
    load_state,
    pixel_statistics,
    random_tensors,
)

LARGE = {"vgg16", "vgg19", "resnet152", "densenet161", "densenet201", "convnext_base", "convnext_large"}
LARGE |= {"efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "resnet101"}
"""Tried through a smaller member of their family, which is built by the same code."""
NAMES = sorted(set(BACKBONES) - LARGE)


def loaded(name: str) -> Any:
    network = build_backbone(name)
    load_state(network, random_tensors(name, 0))
    return network


@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_stated_channels_from_the_stated_size_on(name: str) -> None:
    network, facts = loaded(name), BACKBONES[name]
    with torch.inference_mode():
        assert network(torch.rand(1, 3, facts.min_side, facts.min_side)).shape[1] == facts.channels
        size = 16 * facts.stride
        assert abs(network(torch.rand(1, 3, size, size)).shape[2] - 16) <= 1
        if facts.min_side > 1:
            with pytest.raises(RuntimeError):
                network(torch.rand(1, 3, facts.min_side - 1, facts.min_side - 1))


def test_names_of_tensors_are_torchvision_s_own() -> None:
    assert {"conv1.weight", "layer4.1.bn2.running_var"} <= set(random_tensors("resnet18", 0))
    assert not [name for name in random_tensors("resnet18", 0) if name.startswith("fc.")]
    assert "features.0.0.weight" in random_tensors("mobilenet_v2", 0)
    assert "encoder.pos_embedding" in random_tensors("vit_b_16", 0)


def test_random_weights_are_a_function_of_their_seed_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = random_tensors("squeezenet1_1", 7)
    assert torch.equal(torch.rand(3), expected)
    again, other = random_tensors("squeezenet1_1", 7), random_tensors("squeezenet1_1", 8)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["features.0.weight"], other["features.0.weight"])


def test_a_vit_takes_other_sizes_than_it_was_trained_on() -> None:
    network = loaded("vit_b_16")
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 224, 224)).shape == (1, 768, 14, 14)
        assert network(torch.rand(1, 3, 100, 333)).shape == (1, 768, 6, 20)


def test_tensors_that_do_not_belong_are_named() -> None:
    network = build_backbone("squeezenet1_1")
    tensors = random_tensors("squeezenet1_1", 0)
    with pytest.raises(UserError, match=r"features\.0\.weight"):
        load_state(network, {name: value for name, value in tensors.items() if name != "features.0.weight"})
    with pytest.raises(UserError, match="stranger"):
        load_state(network, {**tensors, "stranger": torch.ones(1)})
    with pytest.raises(UserError, match=r"features\.0\.weight"):
        load_state(network, {**tensors, "features.0.weight": torch.ones(1)})
    load_state(network, {**tensors, "classifier.1.weight": torch.ones(1)})


def test_half_precision_weights_become_single_precision() -> None:
    network = build_backbone("squeezenet1_1")
    load_state(network, {name: value.half() for name, value in random_tensors("squeezenet1_1", 0).items()})
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}


def test_an_unknown_backbone_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="resnet50"):
        build_backbone("resnet7")


def test_pretrained_weights_that_cannot_be_had_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"squeezenet1_1-.*\.pth"):
        imagenet_tensors("squeezenet1_1")
    assert capsys.readouterr().out == "", "stdout is for results: JSON stays JSON"


def test_real_weights_load_strictly(real_data: Path) -> None:
    for name, file in (("mobilenet_v2", "mobilenet_v2"), ("squeezenet1_0", "squeezenet1_0")):
        path = real_data / "weights" / f"{file}_imagenet_fp16.pth"
        load_state(build_backbone(name), read_checkpoint(path).tensors)


@pytest.mark.parametrize(
    "name", ["timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:swin_tiny_patch4_window7_224"]
)
def test_timm_networks_give_maps_of_any_image_size(name: str) -> None:
    network, facts = loaded(name), backbone(name)
    with torch.inference_mode():
        found = network(torch.rand(2, 3, 200, 259))
        assert found.shape[:2] == (2, facts.channels)
        assert abs(found.shape[2] - 200 / facts.stride) <= 1
        assert abs(found.shape[3] - 259 / facts.stride) <= 1
        assert facts.class_token == name.startswith("timm:vit")
        if facts.class_token:
            x = torch.rand(1, 3, 224, 224)
            inner = network.model.forward_features(x)
            torch.testing.assert_close(network.class_vector(x), inner[:, 0])
            torch.testing.assert_close(network(x).flatten(2).transpose(1, 2), inner[:, 1:])


def test_heads_of_timm_files_are_left_behind_and_pixels_are_their_own() -> None:
    tensors = {**random_tensors("timm:vit_tiny_patch16_224", 0), "head.weight": torch.rand(10, 192)}
    load_state(build_backbone("timm:vit_tiny_patch16_224"), tensors)
    assert pixel_statistics("timm:vit_tiny_patch16_224")[0] == (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match="no network of timm"):
        backbone("timm:nothing_of_that_name")
    with pytest.raises(UserError, match="lack"):
        load_state(build_backbone("timm:vit_tiny_patch16_224"), {"cls_token": torch.zeros(1, 1, 192)})


def test_torchvisions_class_token_is_its_classifiers_input() -> None:
    import torchvision

    full = torchvision.models.vit_b_16(weights=None).eval()
    network: Any = build_backbone("vit_b_16")
    load_state(network, full.state_dict())
    x = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(full.heads(network.class_vector(x)), full(x), atol=1e-4, rtol=1e-4)
