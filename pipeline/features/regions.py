"""Regional descriptors on the R-MAC grid: regions of several sizes, pooled, normalised, (whitened), summed.

The grid is cirtorch's (layers/functional.py `rmac`) in exact integers; its float32 arithmetic differs from it only for
extreme shapes (8 of 4563 with H, W ≤ 40). The result is not normalised, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from pipeline.features.normalize import l2_normalize_additive
from pipeline.features.pooling import mac

Region = tuple[int, int, int, int]
Pool = Callable[[Tensor], Tensor]


@lru_cache(maxsize=4096)
def rmac_grid(height: int, width: int, levels: int = 3) -> tuple[Region, ...]:
    """Return the regions (top, left, height, width) of a map; level l has squares of side floor(2·min / (l+1)).

    The number of steps along the longer side is the one in 2..7 whose overlap is nearest 40 %, the first winning ties.
    """
    small, large = min(height, width), max(height, width)
    # |(w² - w·b)/w² - 0.4| with b = (large - small)/(steps - 1), multiplied by 5·small·(steps - 1) to stay in integers
    # per candidate; candidates are compared by cross-multiplication.
    best, best_key = 0, (0, 1)
    for index, steps in enumerate(range(2, 8)):
        gap = abs(3 * small * (steps - 1) - 5 * (large - small))
        key = (gap, steps - 1)
        if index == 0 or key[0] * best_key[1] < best_key[0] * key[1]:
            best, best_key = index, key
    extra_rows = best + 1 if height > width else 0
    extra_columns = best + 1 if width > height else 0
    regions: list[Region] = []
    for level in range(1, levels + 1):
        side = 2 * small // (level + 1)
        if side == 0:
            continue
        tops = _starts(height, side, level + extra_rows)
        lefts = _starts(width, side, level + extra_columns)
        regions += [(top, left, side, side) for top in tops for left in lefts]
    return tuple(regions)


def _starts(length: int, side: int, count: int) -> list[int]:
    if count == 1:
        return [0]
    return [k * (length - side) // (count - 1) for k in range(count)]


def regional(
    x: Tensor,
    *,
    pool: Pool = mac,
    levels: int = 3,
    whiten: Callable[[Tensor], Tensor] | None = None,
    whole: bool = True,
) -> Tensor:
    """Sum over regions of L2(pool(region)), optionally L2(whiten(·)) of each. (N,C,H,W) -> (N,D).

    With pool=mac and no whitening this is cirtorch's R-MAC: `whole` adds the full map once more. With its learned
    `rpool` and whitening layer it is cirtorch's Rpool. L2 is cirtorch's x / (‖x‖ + 1e-6).
    """
    height, width = x.shape[2:]
    grid = rmac_grid(height, width, levels)
    boxes = ([(0, 0, height, width)] if whole or not grid else []) + list(grid)
    total: Tensor | None = None
    for top, left, rows, columns in boxes:
        vector = l2_normalize_additive(pool(x[:, :, top : top + rows, left : left + columns]))
        if whiten is not None:
            vector = l2_normalize_additive(whiten(vector))
        total = vector if total is None else total + vector
    assert total is not None, "there is always one region"
    return total


def overlapping_rmac(x: Tensor, *, levels: int = 3, overlap: float = 0.5) -> Tensor:
    """CNN-CBIR's R-MAC: per level max-pooling by windows that overlap, L2 each, summed. (N,C,H,W) -> (N,C).

    Window max(floor(2·min / (l+1)), 2), stride max(floor((1 - overlap)·window), 1): nothing reaches the far borders
    for certain, and the whole map is not added. A map narrower than a window is one region.
    """
    height, width = x.shape[2:]
    small = min(height, width)
    total = torch.zeros(x.shape[:2], dtype=torch.float32, device=x.device)
    for level in range(1, levels + 1):
        window = min(small, max(2 * small // (level + 1), 2))
        stride = max(int((1 - overlap) * window), 1)
        regions = torch.nn.functional.max_pool2d(x.float(), window, stride).flatten(2)
        total = total + l2_normalize_additive(regions).sum(dim=2)
    return total
