"""Deep local features: DELF's numbers, its attention head against torch's own layers, its boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jobs.weights import Weights, named_weights
from pipeline.core.local import LocalStore
from pipeline.extract.delf import Spec
from pipeline.features.attention import CUTS, Attention, LocalMap, boxes, norm_attention
from pipeline.features.backbones import build_backbone, load_state, random_tensors
from pipeline.publish.catalog import Catalog
from tests.builders import jpeg

CPU = torch.device("cpu")


def built(folder: Path, extra: dict[str, torch.Tensor] | None = None, **fields: Any) -> Any:
    tensors = {**named_weights("resnet18", "random:0").tensors, **(extra or {})}
    store = LocalStore(str(folder))
    data = Weights(tensors=tensors, origin="random:0").to_bytes()
    weights = Catalog(store).put_artifact(data, "model.safetensors")
    return Spec(backbone="resnet18", weights=weights, resize="longest:160", **fields).build(store, CPU)


def test_a_box_is_the_receptive_field_and_its_centre_lies_on_the_stride() -> None:
    cut = CUTS["resnet50"]
    assert (cut.field, cut.stride, cut.padding, cut.channels) == (291, 16, 145, 1024)
    found = boxes(3, 4, cut, 0.5)
    assert found[0].tolist() == [-290, -290, 290, 290]
    centres = (found[:, :2] + found[:, 2:]) / 2
    expected = [[16 * column / 0.5, 16 * row / 0.5] for row in range(3) for column in range(4)]
    assert centres.tolist() == expected


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_the_cut_map_has_the_stated_channels_stride_and_field(name: str) -> None:
    network = build_backbone(name)
    load_state(network, random_tensors(name, 0))
    cut = CUTS[name]
    local = LocalMap(network, cut)
    x = torch.rand(1, 3, 480, 480, requires_grad=True)
    found = local(x)
    assert found.shape == (1, cut.channels, 480 // cut.stride, 480 // cut.stride)
    if name == "resnet50":
        return  # DELF's number is that of TensorFlow's network, whose strides lie elsewhere.
    found[0, :, 15, 15].sum().backward()
    assert x.grad is not None
    touched = torch.nonzero(x.grad[0].abs().sum(dim=(0, 1)))
    assert int(touched.max() - touched.min()) + 1 == cut.field


def test_attention_is_two_convolutions_and_a_softplus() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16, eps=1e-3), nn.ReLU(), nn.Conv2d(16, 1, 1), nn.Softplus()
    ).eval()
    layers[1].running_mean.uniform_()  # type: ignore[operator]
    names = {"0.": "conv1.", "1.": "bn1.", "3.": "conv2."}
    tensors = {f"attention.{names[key[:2]]}{key[2:]}": value for key, value in layers.state_dict().items()}
    x = torch.rand(2, 8, 5, 6)
    torch.testing.assert_close(Attention(tensors)(x), layers(x)[:, 0])
    torch.testing.assert_close(norm_attention(x), x.norm(dim=1))


def test_the_best_scores_of_all_scales_are_taken_in_order(tmp_path: Path) -> None:
    extractor = built(tmp_path, features=50, scales=(0.5, 1.0, 1.4142))
    image = extractor.prepare(jpeg(3, 160, 120))
    few, all_of_them = extractor.extract([image]), built(tmp_path, features=10_000).extract([image])
    assert len(few.vectors) == 50 < len(all_of_them.vectors)
    assert few.scores is not None
    assert (np.diff(few.scores) <= 0).all()
    assert set(few.scales.round(4).astype(float).round(4)) <= {0.5, 1.0, 1.4142}
    np.testing.assert_allclose(np.linalg.norm(few.vectors, axis=1), 1.0, atol=1e-5)


def test_a_threshold_and_a_projection_of_the_weights_are_applied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(256, 40))
    extra = {"pca.mean": torch.rand(256) * 0.01, "pca.components": axes.T.contiguous()}
    extractor = built(tmp_path, extra)
    image = extractor.prepare(jpeg(3, 160, 120))
    reduced, plain = extractor.extract([image]), built(tmp_path).extract([image])
    assert (extractor.dim, reduced.vectors.shape[1]) == (40, 40)
    expected = (plain.vectors - extra["pca.mean"].numpy()) @ axes.numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(reduced.vectors, expected, atol=1e-5)
    limit = float(np.median(plain.scores))
    fewer = built(tmp_path, threshold=limit).extract([image])
    assert 0 < len(fewer.vectors) < len(plain.vectors)
    assert (fewer.scores >= limit).all()
