"""Dense local features with attention, as DELF has them: an intermediate map, a score per position, and their boxes.

Noh et al., "Large-scale image retrieval with attentive deep local features", 2017; receptive fields and selection as in
tensorflow/models' delf.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Cut:
    """An intermediate map: channels, and the receptive field, stride and padding of a position, in pixels."""

    layer: str
    channels: int
    field: int
    stride: int
    padding: int


CUTS = {
    # DELF's numbers for block3 of a ResNet-50 at stride 16.
    "resnet50": Cut(layer="layer3", channels=1024, field=291, stride=16, padding=145),
    "resnet101": Cut(layer="layer3", channels=1024, field=835, stride=16, padding=417),
    # Added up over the 3x3 convolutions: each adds twice the stride that it sees.
    "resnet18": Cut(layer="layer3", channels=256, field=211, stride=16, padding=105),
    "mobilenet_v2": Cut(layer="features.13", channels=96, field=267, stride=16, padding=133),
}


class LocalMap(nn.Module):
    """A backbone up to a cut: (N,3,H,W) -> (N,C,h,w)."""

    def __init__(self, backbone: nn.Module, cut: Cut) -> None:
        super().__init__()
        head, _, number = cut.layer.partition(".")
        parts: list[nn.Module] = []
        for name, child in backbone.named_children():
            if name == head and number:
                assert isinstance(child, nn.Sequential), "only a sequence is cut by number"
                parts.append(child[: int(number) + 1])
            else:
                parts.append(child)
            if name == head:
                break
        self.parts = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map."""
        y: Tensor = self.parts(x)
        return y


class Attention(nn.Module):
    """DELF's score: conv 1x1 to 512, (batch norm), ReLU, conv 1x1 to 1, softplus. (N,C,h,w) -> (N,h,w)."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name in ("attention.conv1.weight", "attention.conv2.weight"):
            if name not in tensors:
                raise UserError("weights", f"hold no {name}", "use attention norm, or weights with a learned one")
        self._tensors = {name: value.float() for name, value in tensors.items() if name.startswith("attention.")}

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (N,h,w)."""
        t = {name.removeprefix("attention."): value.to(x.device) for name, value in self._tensors.items()}
        y = nn.functional.conv2d(x, t["conv1.weight"].flatten(1)[:, :, None, None], t.get("conv1.bias"))
        if "bn1.weight" in t:
            statistics = (t["bn1.running_mean"], t["bn1.running_var"], t["bn1.weight"], t["bn1.bias"])
            y = nn.functional.batch_norm(y, *statistics, eps=1e-3)
        y = nn.functional.conv2d(y.relu(), t["conv2.weight"].flatten(1)[:, :, None, None], t.get("conv2.bias"))
        return nn.functional.softplus(y)[:, 0]


def norm_attention(x: Tensor) -> Tensor:
    """Return the length of each position's feature, (N,C,h,w) -> (N,h,w): attention without learning (HOW, 2020)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=1)
    return length


def boxes(rows: int, columns: int, cut: Cut, scale: float) -> Tensor:
    """Return the receptive fields (rows·columns, 4) as x0, y0, x1, y1, in pixels of the image before scaling.

    Position (i, j) sees stride·(i, j) + [-padding, field - padding - 1], divided by the scale: its centre is stride·i.
    """
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corner = torch.stack([x, y], dim=-1).reshape(-1, 2).float() * cut.stride - cut.padding
    return torch.cat([corner, corner + cut.field - 1], dim=1) / scale
