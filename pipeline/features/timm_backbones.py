"""Backbones of the timm library, as `timm:<name>`: feature maps and class tokens of what it has. timm is an extra.

Weights carry timm's own names; heads are left behind. Vision transformers take any image size (their position
embeddings are interpolated by timm); rows and columns that fill no patch are cut off, as a convolution would.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.core.extras import library

PREFIX = "timm:"


class TimmMap(nn.Module):
    """A timm network up to its features: (N,3,H,W) -> (N,C,h,w); `class_vector` gives the (N,C) of transformers."""

    traceable = False
    """Control flow of these networks depends on the image; see fuse.py."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.stride = int(model.feature_info[-1]["reduction"])
        self.channels = int(model.num_features)
        self._prefix = int(getattr(model, "num_prefix_tokens", 0))
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))
        self._patch: tuple[int, int] = (int(patch[0]), int(patch[1]))
        self._last = getattr(model, "output_fmt", "NCHW") == "NHWC"

    @property
    def has_class_token(self) -> bool:
        """Whether there is a class token."""
        return getattr(self.model, "cls_token", None) is not None

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (N,C,h,w)."""
        return self.map_and_class(x)[0]

    def class_vector(self, x: Tensor) -> Tensor:
        """Return the class token (N,C) after the last norm."""
        token = self.map_and_class(x)[1]
        assert token is not None, "only networks with a class token are asked for it"
        return token

    def map_and_class(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the map (N,C,h,w) and the class token (N,C), None where there is none."""
        rows, columns = x.shape[2] // self._patch[0], x.shape[3] // self._patch[1]
        x = x[:, :, : rows * self._patch[0], : columns * self._patch[1]]
        features: Tensor = self.model.forward_features(x)
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if self._last else features, None
        n, _, c = features.shape
        grid = features[:, self._prefix :].transpose(1, 2).reshape(n, c, rows, columns)
        return grid, features[:, 0] if self.has_class_token else None


def bare(name: str) -> str:
    """Return timm's own name; UserError when timm has no such network."""
    timm = library("timm", "timm", f"backbone {name}")
    found = name.removeprefix(PREFIX)
    if not timm.is_model(found.partition(".")[0]):
        near = ", ".join(timm.list_models(f"*{found[:8]}*")[:5])
        raise UserError(f"--backbone {name}", "is no network of timm", f"choose one of {near or 'timm.list_models()'}")
    return found


def build(name: str, *, pretrained: bool = False) -> TimmMap:
    """Return the cut network; pretrained: with the weights that timm has for the name, from its cache or server."""
    timm, found = library("timm", "timm", f"backbone {name}"), bare(name)
    settings = {"pretrained": pretrained, "num_classes": 0}
    try:
        model = timm.create_model(found, **settings, dynamic_img_size=True)
    except TypeError:
        model = timm.create_model(found, **settings)
    return TimmMap(model).eval().requires_grad_(False)


def facts(name: str) -> tuple[int, int, bool, tuple[Any, Any]]:
    """Return channels, stride, whether there is a class token, and the (mean, std) its weights were trained with."""
    with torch.device("meta"):
        network = build(name)
    pixels = network.model.pretrained_cfg
    return network.channels, network.stride, network.has_class_token, (tuple(pixels["mean"]), tuple(pixels["std"]))


def random_tensors(name: str) -> dict[str, Tensor]:
    """Return timm's own initialisation under the caller's seed."""
    return dict(build(name).model.state_dict())


def pretrained_tensors(name: str) -> dict[str, Tensor]:
    """Return the weights that timm has for a name; UserError when they can be had neither here nor there."""
    try:
        return dict(build(name, pretrained=True).model.state_dict())
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001
        # Hubs fail in many ways, none of which is ours to tell apart.
        raise UserError(
            f"--weights imagenet for {name}",
            f"are not in the hub's cache and cannot be downloaded ({' '.join(str(error).split())[:80]})",
            "name a file with --weights",
        ) from None
