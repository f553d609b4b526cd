"""Global pooling of feature maps (N,C,H,W) -> (N,C): GeM, MAC, SPoC, CroW; and pooling over scales. Always float32.

Nothing here normalises its result; R-MAC and other regional kinds are in regions.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

GEM_EPS = 1e-6


def gem(x: Tensor, p: float | Tensor = 3.0, *, eps: float = GEM_EPS) -> Tensor:
    """Generalised mean: (mean over positions of max(x, eps)^p)^(1/p). (N,C,H,W) -> (N,C).

    p is a number, a learned tensor [1], or [C] for one exponent per channel (cirtorch's GeMmp).
    Radenović, Tolias, Chum, "Fine-tuning CNN image retrieval with no human annotation", eq. 2; eps as cirtorch.
    """
    x = x.float().clamp(min=eps)
    if isinstance(p, Tensor):
        p = p.float().reshape(1, -1, 1, 1)
        return x.pow(p).mean(dim=(2, 3)).pow(1.0 / p.reshape(1, -1))
    return x.pow(p).mean(dim=(2, 3)).pow(1.0 / p)


def mac(x: Tensor) -> Tensor:
    """Maximum activation over positions (Razavian et al.; Tolias et al.). (N,C,H,W) -> (N,C)."""
    return x.float().amax(dim=(2, 3))


def spoc(x: Tensor) -> Tensor:
    """Mean over positions: SPoC without centre prior, as cirtorch and DELG have it. (N,C,H,W) -> (N,C)."""
    return x.float().mean(dim=(2, 3))


def raac(x: Tensor, grid: int = 2) -> Tensor:
    """Regional averages: the means of grid x grid cells, concatenated. (N,C,H,W) -> (N, C·grid²).

    Keeps a coarse layout of the image, so it suits upright scenes; cells as torch's adaptive average pooling cuts them.
    """
    return torch.nn.functional.adaptive_avg_pool2d(x.float(), grid).flatten(1)


def crow(x: Tensor, *, a: float = 2.0, b: float = 2.0) -> Tensor:
    """Cross-dimensional weighting (Kalantidis et al.), as yahoo/crow computes it. (N,C,H,W) -> (N,C).

    Spatial weight (S / (Σ S^a)^(1/a))^(1/b) with S the sum over channels; channel weight log(ΣQ / Q_k) with Q_k the
    share of non-zero positions, 0 where Q_k = 0. The reference code has no ε inside the logarithm, unlike the paper.
    """
    x = x.float()
    total_n1hw = x.sum(dim=1, keepdim=True)
    norm = total_n1hw.pow(a).sum(dim=(2, 3), keepdim=True).pow(1.0 / a)
    spatial_n1hw = (total_n1hw / norm.clamp_min(torch.finfo(torch.float32).tiny)).pow(1.0 / b)
    share_nc = (x != 0).float().mean(dim=(2, 3))
    channel_nc = torch.where(
        share_nc > 0,
        (share_nc.sum(dim=1, keepdim=True) / share_nc.clamp_min(1e-30)).log(),
        torch.zeros_like(share_nc),
    )
    return channel_nc * (x * spatial_n1hw).sum(dim=(2, 3))


def power_mean(vectors: Sequence[Tensor], p: float | Tensor) -> Tensor:
    """Pool one vector per scale, (N,D) each, as cirtorch's extract_ms: ((Σ v^p) / n)^(1/p). For v ≥ 0 unless p = 1."""
    stacked = torch.stack([v.float().pow(p) for v in vectors])
    return stacked.mean(dim=0).pow(1.0 / p)


def signed_power_mean(
    vectors: Sequence[Tensor], p: float = 3.0, *, eps: float = 1e-6, zeros: Literal["zero", "positive"] = "zero"
) -> Tensor:
    """Pool one vector per scale, (N,D) each, as DIR's `pool(..., 'gem')`: sign-preserving powers around a mean.

    DIR's `sympow` multiplies by torch.sign, so that what is zero at all scales stays zero. zeros: "positive" takes zero
    as the smallest positive number, which makes eps^(1/p) of it, 0.01; the first release did so.
    """

    def power(x: Tensor, exponent: float) -> Tensor:
        sign = torch.sign(x) if zeros == "zero" else torch.where(x >= 0, 1.0, -1.0)
        return (x * sign).clamp(min=eps).pow(exponent) * sign

    return power(torch.stack([power(v.float(), p) for v in vectors]).mean(dim=0), 1.0 / p)
