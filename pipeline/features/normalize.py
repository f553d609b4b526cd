"""L2 normalisation as the reference implementations do it, and pixel normalisation. Nothing learned lives here."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def l2_normalize(x: Tensor, *, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Return x / max(‖x‖₂, eps) along `dim`, DIR's form (torch.nn.functional.normalize). A zero vector stays zero."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.clamp_min(eps)


def l2_normalize_additive(x: Tensor, *, dim: int = 1, eps: float = 1e-6) -> Tensor:
    """Return x / (‖x‖₂ + eps) along `dim`, cirtorch's form (layers/functional.py `l2n`); differs in the 7th digit."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / (norm + eps)


def normalize_pixels(pixels_nhwc: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return uint8 RGB (N,H,W,3) as float32 (N,3,H,W): (pixel / 255 - mean) / std, channels-last in memory."""
    x = pixels_nhwc.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
    return x.sub_(_per_channel(tuple(mean), x.device)).div_(_per_channel(tuple(std), x.device))


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return values as (1,C,1,1) on a device: made there once, since that waits for all that the device has queued."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
