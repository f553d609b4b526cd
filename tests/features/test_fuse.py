"""Optimised networks give what the plain ones give: every backbone, in float32 to rounding, in bfloat16 by cosine."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.features.backbones import build_backbone, load_state, random_tensors
from pipeline.features.fuse import CUDNN, CudnnConv, FusedConv, Kernels, is_optimized, optimized
from pipeline.features.packaged import PACKAGED
from tests.features.test_backbones import NAMES

CPU = torch.device("cpu")


def network(name: str) -> nn.Module:
    """A backbone whose batch norms do something."""
    made, tensors = build_backbone(name), random_tensors(name, 0)
    generator = torch.Generator().manual_seed(0)
    for key, value in tensors.items():
        if key.endswith("running_mean"):
            tensors[key] = 0.1 * torch.randn(value.shape, generator=generator)
        if key.endswith("running_var"):
            tensors[key] = 0.5 + torch.rand(value.shape, generator=generator)
    load_state(made, tensors)
    return made


def image(height: int = 97, width: int = 129) -> Tensor:
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def cosine(one: Tensor, other: Tensor) -> float:
    return float(nn.functional.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0))


# Random weights drive what ReLU6 bounds far beyond it; those of installed packages are tried in test_packaged.py.
@pytest.mark.parametrize("name", sorted(set(NAMES) - set(PACKAGED)))
def test_every_backbone_keeps_its_values(name: str) -> None:
    plain = network(name)
    with torch.inference_mode():
        expected = plain(image())
        found = optimized(plain, CPU, torch.float32)(image())
        half = optimized(plain, CPU, torch.bfloat16)
        # A vision transformer stays as it is.
        in_half = half(image().bfloat16() if is_optimized(half) else image())
        assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
        assert cosine(found, expected) > 0.9999999
        assert cosine(in_half.float(), expected) > 0.999
        assert plain(image()).equal(expected), "the plain network is not touched"


@pytest.mark.parametrize(
    ("name", "fused"), [("resnet50", 49), ("vgg16", 13), ("mobilenet_v2", 45), ("squeezenet1_0", 25)]
)
def test_activations_and_sums_are_computed_inside_convolutions(name: str, fused: int) -> None:
    made = optimized(network(name), CPU, torch.float32)
    assert sum(isinstance(module, FusedConv) for module in made.modules()) == fused
    assert not [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not [module for module in made.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]


class Awkward(nn.Module):
    """What must not be fused: a map read twice, a norm over a map read twice, a sum of three, a strange padding."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding="same")
        self.three = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        y = self.relu(x) + x
        z = self.norm(y) + y + self.relu(self.two(y))
        result: Tensor = self.relu(z + self.three(z)) + self.relu(z + 1.0)
        return result


def test_what_cannot_be_fused_is_left_alone() -> None:
    torch.manual_seed(0)
    plain = Awkward().eval().requires_grad_(False)
    nn.init.normal_(plain.norm.weight)
    with torch.inference_mode():
        made = optimized(plain, CPU, torch.float32)
        torch.testing.assert_close(made(image()), plain(image()), rtol=1e-4, atol=1e-4)


def test_nothing_is_fused_for_other_devices() -> None:
    made = optimized(network("resnet18"), torch.device("meta"), torch.bfloat16)
    assert not [module for module in made.modules() if isinstance(module, FusedConv | CudnnConv | nn.BatchNorm2d)]


class Cudnn:
    """cuDNN's kernels in steps; it refuses convolutions of some channels, and counts what it was asked for."""

    def __init__(self, refused: int = 0) -> None:
        self.refused, self.asked = refused, {"fused": 0, "added": 0}
        self.error = "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"

    def fused(self, x: Tensor, weight: Tensor, bias: Tensor | None, *shape: Any) -> Tensor:
        self.asked["fused"] += 1
        if weight.shape[1] == self.refused:
            raise RuntimeError(self.error)
        return nn.functional.conv2d(x, weight, bias, *shape).relu()

    def added(self, x: Tensor, weight: Tensor, other: Tensor, alpha: float, bias: Tensor | None, *shape: Any) -> Tensor:
        self.asked["added"] += 1
        made = nn.functional.conv2d(x, weight, bias, *shape)
        assert made.shape == other.shape, "cuDNN adds maps of one shape only"
        return (made + alpha * other).relu()

    @property
    def kernels(self) -> Kernels:
        return replace(CUDNN, make=lambda conv, *_: CudnnConv(conv, self.fused, self.added))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "mobilenet_v2"])
def test_backbones_keep_their_values_with_the_kernels_of_a_gpu(name: str) -> None:
    plain = network(name)
    with torch.inference_mode():
        expected = plain(image())
        found = optimized(plain, CPU, torch.float32, Cudnn().kernels)(image())
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("resnet50", {"fused": 33, "added": 16}),
        ("vgg16", {"fused": 13, "added": 0}),
        ("mobilenet_v2", {"fused": 0, "added": 0}),
    ],
)
def test_relu_is_computed_inside_convolutions_on_a_gpu_and_nothing_else(name: str, asked: dict[str, int]) -> None:
    cudnn = Cudnn()
    made = optimized(network(name), CPU, torch.float32, cudnn.kernels)
    with torch.inference_mode():
        made(image())
    assert cudnn.asked == asked


def test_a_convolution_that_has_no_fused_kernel_is_asked_for_once_and_computed_in_steps() -> None:
    cudnn, plain = Cudnn(refused=3), network("resnet18")
    made = optimized(plain, CPU, torch.float32, cudnn.kernels)
    with torch.inference_mode():
        expected = plain(image())
        for _ in range(2):
            assert (made(image()) - expected).abs().max() < 2e-5 * expected.abs().max()
    assert cudnn.asked == {"fused": 9 + 8, "added": 16}


@pytest.mark.parametrize("error", ["CUDA error: an illegal memory access was encountered", "CUDA out of memory"])
def test_other_errors_of_a_fused_kernel_are_passed_on(error: str) -> None:
    cudnn = Cudnn(refused=3)
    cudnn.error = error
    made = optimized(network("resnet18"), CPU, torch.float32, cudnn.kernels)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=error):
        made(image())


def test_networks_made_ready_by_several_threads_disturb_nobody() -> None:
    plain = network("squeezenet1_1")
    ready = optimized(plain, CPU, torch.float32)
    stop, wrong = threading.Event(), []
    with torch.inference_mode():
        expected = ready(image())

    def ask() -> None:
        with torch.inference_mode():
            while not stop.is_set():
                try:
                    assert torch.equal(ready(image()), expected)
                except BaseException as error:  # noqa: BLE001 - reported by the test
                    wrong.append(error)
                    return

    thread = threading.Thread(target=ask)
    thread.start()
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: optimized(plain, CPU, torch.float32), range(9)))
    stop.set()
    thread.join()
    assert not wrong
    with torch.inference_mode():
        assert all(torch.equal(one(image()), expected) for one in made)
