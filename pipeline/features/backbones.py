"""Backbones: torchvision's networks cut to their feature maps, and tensors for them by name or seed.

Cut points are cirtorch's where it has the network. Keys of the cut module are torchvision's own, so one safetensors
file serves. Files and checkpoints are read elsewhere.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.features import packaged, timm_backbones
from pipeline.features.normalize import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """channels of the map, its stride in pixels, and the smallest image side that forward takes."""

    channels: int
    stride: int
    min_side: int
    head: tuple[str, ...]
    """Prefixes of the tensors that the cut leaves behind."""
    class_token: bool = False


def _family(names: Mapping[str, int], stride: int, min_side: int, *head: str) -> dict[str, Backbone]:
    return {n: Backbone(channels=c, stride=stride, min_side=min_side, head=head) for n, c in names.items()}


BACKBONES: dict[str, Backbone] = {
    **_family({"alexnet": 256}, 16, 31, "classifier."),
    **_family({"vgg16": 512, "vgg19": 512}, 16, 16, "classifier."),
    **_family({"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048}, 32, 1, "fc."),
    **_family(
        {"densenet121": 1024, "densenet161": 2208, "densenet169": 1664, "densenet201": 1920}, 32, 29, "classifier."
    ),
    **_family({"squeezenet1_0": 512}, 16, 21, "classifier."),
    **_family({"squeezenet1_1": 512}, 16, 17, "classifier."),
    **_family({"mobilenet_v2": 1280, "mobilenet_v3_small": 576, "mobilenet_v3_large": 960}, 32, 1, "classifier."),
    **_family({"efficientnet_b0": 1280, "efficientnet_b1": 1280, "efficientnet_b2": 1408}, 32, 1, "classifier."),
    **_family({"efficientnet_b3": 1536, "efficientnet_b4": 1792, "efficientnet_b5": 2048}, 32, 1, "classifier."),
    **_family({"efficientnet_b6": 2304, "efficientnet_b7": 2560}, 32, 1, "classifier."),
    **_family(dict.fromkeys(packaged.PACKAGED, 1280), 32, 1, "classifier."),
    **_family({"convnext_tiny": 768, "convnext_small": 768, "convnext_base": 1024}, 32, 32, "classifier."),
    **_family({"convnext_large": 1536}, 32, 32, "classifier."),
    "vit_b_16": Backbone(channels=768, stride=16, min_side=16, head=("heads.",), class_token=True),
}


@lru_cache(maxsize=256)
def backbone(name: str) -> Backbone:
    """Return the facts of a torchvision backbone, or of `timm:<name>`; UserError for one that neither has."""
    if not name.startswith(timm_backbones.PREFIX):
        return _known(name)
    channels, stride, class_token, _ = timm_backbones.facts(name)
    heads = ("head.", "head_dist.", "fc.", "classifier.", "fc_norm.")
    return Backbone(channels=channels, stride=stride, min_side=stride, head=heads, class_token=class_token)


def pixel_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the (mean, std) of pixels that a backbone's published weights were trained with."""
    if name.startswith(timm_backbones.PREFIX):
        return timm_backbones.facts(name)[3]
    if name in packaged.PACKAGED:
        return packaged.MEAN, packaged.STD
    return IMAGENET_MEAN, IMAGENET_STD


def has_own_statistics(name: str) -> bool:
    """Whether a recipe is to state a backbone's `pixel_statistics`, as they may be others than ImageNet's."""
    return name.startswith(timm_backbones.PREFIX) or name in packaged.PACKAGED


def build_backbone(name: str) -> nn.Module:
    """Return the cut network, uninitialised: (N,3,H,W) float -> (N,C,h,w). eval mode, no gradients."""
    if name.startswith(timm_backbones.PREFIX):
        # Some of its buffers are computed and in no weight file: it is built as it is.
        return timm_backbones.build(name)
    if name in packaged.PACKAGED:
        return packaged.build(name)
    # On "meta" no time is spent on an initialisation that loading overwrites anyway.
    with torch.device("meta"):
        full = _full(name)
    network: nn.Module
    if name.startswith("resnet"):
        del full.fc
        network = _ResNetMap(full)
    elif name.startswith("densenet"):
        network = _Features(full.features, relu=True)
    elif name.startswith("vit"):
        del full.heads
        network = _ViTMap(full)
    else:
        # cirtorch leaves the last max-pool of AlexNet and VGG out: the map keeps its resolution.
        layers = full.features
        network = _Features(layers[:-1] if name.startswith(("alexnet", "vgg")) else layers)
    return network.to_empty(device="cpu").eval().requires_grad_(False)


def load_state(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors with torchvision's names; the classifier's are dropped, anything else must fit exactly.

    fp16 tensors become fp32. UserError names the first tensors that are missing, left over or of another shape.
    """
    network = network.model if isinstance(network, timm_backbones.TimmMap) else network
    wanted = network.state_dict()
    head = _head_prefixes(network)
    given = {
        n: t.float() if t.is_floating_point() else t
        for n, t in tensors.items()
        if n in wanted or not n.startswith(head)
    }
    # Checkpoints older than torch 0.4.1 have no step counter; it plays no part in inference.
    for name in wanted:
        if name.endswith("num_batches_tracked"):
            given.setdefault(name, torch.zeros((), dtype=torch.long))
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    shapes = [name for name in wanted if name in given and wanted[name].shape != given[name].shape]
    for names, what in ((missing, "lack"), (extra, "hold, which this backbone has not,"), (shapes, "misshape")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError("weights", f"{what} {', '.join(names[:3])}{more}", "name the backbone they belong to")
    network.load_state_dict(given, strict=True)


def cut(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return only the tensors that the cut network of that name uses."""
    if name.startswith(timm_backbones.PREFIX) or name in packaged.PACKAGED:
        return dict(tensors)
    wanted = build_backbone(name).state_dict()
    return {key: value for key, value in tensors.items() if key in wanted}


def random_tensors(name: str, seed: int) -> dict[str, Tensor]:
    """Return torchvision's own initialisation under a seed, as the same values every time; global state untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in packaged.PACKAGED:
            state = packaged.random_tensors(name)
        else:
            timm = name.startswith(timm_backbones.PREFIX)
            state = timm_backbones.random_tensors(name) if timm else _full(name).state_dict()
    return cut(name, state)


def imagenet_tensors(name: str) -> dict[str, Tensor]:
    """Return weights trained on ImageNet: of an installed package, or torchvision's IMAGENET1K_V1 (the ones the field
    compares with) from its cache or its server, or timm's.
    """
    if name in packaged.PACKAGED:
        return packaged.imagenet_tensors(name)
    if name.startswith(timm_backbones.PREFIX):
        return timm_backbones.pretrained_tensors(name)
    weights = _pretrained(name)
    try:
        # torch.hub announces a download on stdout, which is for results.
        with contextlib.redirect_stdout(sys.stderr):
            state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        file = weights.url.rsplit("/", 1)[-1]
        raise UserError(
            f"--weights imagenet for {name}",
            f"are not in torchvision's cache and cannot be downloaded ({' '.join(str(error).split())[:80]})",
            f"put {file} into {torch.hub.get_dir()}/checkpoints or name a file with --weights",
        ) from None
    return cut(name, state)


def imagenet_cached(name: str) -> bool:
    """Tell whether `imagenet_tensors` would find its file without asking any server."""
    if name in packaged.PACKAGED:
        return packaged.installed(name)
    file = str(_pretrained(name).url).rsplit("/", 1)[-1]
    return (Path(torch.hub.get_dir()) / "checkpoints" / file).is_file()


def _pretrained(name: str) -> Any:
    _known(name)
    return torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]


def _known(name: str) -> Backbone:
    if name not in BACKBONES:
        raise UserError(f"--backbone {name}", "is not known", f"choose one of {', '.join(sorted(BACKBONES))}")
    return BACKBONES[name]


def _full(name: str) -> Any:
    _known(name)
    return torchvision.models.get_model(name, weights=None)


def _head_prefixes(network: nn.Module) -> tuple[str, ...]:
    if isinstance(network, _ViTMap):
        return ("heads.",)
    torchvisions = isinstance(network, (_Features, _ResNetMap))
    return ("classifier.", "fc.") if torchvisions else ("classifier.", "fc.", "head.", "head_dist.", "fc_norm.")


class _Features(nn.Module):
    """Networks whose map is their `features`; densenet's still wants its last ReLU."""

    def __init__(self, features: nn.Module, *, relu: bool = False) -> None:
        super().__init__()
        self.features = features
        self._relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.features(x)
        return y.relu() if self._relu else y


class _ResNetMap(nn.Module):
    """A ResNet up to layer4, with torchvision's names."""

    def __init__(self, full: Any) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = full.conv1, full.bn1, full.relu, full.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = full.layer1, full.layer2, full.layer3, full.layer4

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        y: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return y


class _ViTMap(nn.Module):
    """A ViT's patch tokens as a map; position embeddings are interpolated to the image's own grid."""

    traceable = False
    """Whether to interpolate depends on the image; see fuse.py."""

    def __init__(self, full: Any) -> None:
        super().__init__()
        self.conv_proj, self.class_token, self.encoder = full.conv_proj, full.class_token, full.encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.map_and_class(x)[0]

    def class_vector(self, x: Tensor) -> Tensor:
        """Return the class token (N,C) after the last norm."""
        return self.map_and_class(x)[1]

    def map_and_class(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the patch tokens (N,C,h,w) and the class token (N,C)."""
        patches = self.conv_proj(x)
        n, c, h, w = patches.shape
        tokens = torch.cat([self.class_token.expand(n, -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = self.encoder.dropout(tokens + self._positions(h, w))
        tokens = self.encoder.ln(self.encoder.layers(tokens))
        grid: Tensor = tokens[:, 1:].transpose(1, 2).reshape(n, c, h, w)
        return grid, tokens[:, 0]

    def _positions(self, h: int, w: int) -> Tensor:
        embedding: Tensor = self.encoder.pos_embedding
        side = round((embedding.shape[1] - 1) ** 0.5)
        if (h, w) == (side, side):
            return embedding
        grid = embedding[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
        grid = nn.functional.interpolate(grid, size=(h, w), mode="bicubic", align_corners=False)
        return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
