"""Where in a feature map an object is: the rectangle whose pooled features are nearest to the object's.

The map's powers are summed to an integral map, which gives the generalised mean of any rectangle in one step (Tolias,
Sicre, Jégou, "Particular object retrieval with integral max-pooling of CNN activations", 2016: with a high exponent it
stands for the maximum). The search starts from the regions of the R-MAC grid and a lattice of rectangles, and moves the
sides of the best ones while that helps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.features.regions import rmac_grid

EPS = 1e-6
LATTICE, LEVELS, STARTS, STEPS = 9, 5, 4, (-2, -1, 1, 2)
"""Lines of the lattice per axis, levels of the grid, rectangles that are refined, and how far a side moves."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """A rectangle as shares of the map's width and height, and the cosine of its features with the object's."""

    left: float
    top: float
    width: float
    height: float
    score: float


def pooled(x: Tensor, p: float) -> Tensor:
    """Return the L2-normalised generalised mean (C,) of a map (C,H,W), for objects to look for."""
    vector = x.double().clamp(min=EPS).pow(p).mean(dim=(1, 2)).pow(1.0 / p)
    unit: Tensor = vector / torch.linalg.vector_norm(vector)
    return unit


def locate(x: Tensor, queries: Tensor, p: float) -> Located:
    """Return the rectangle of a map (C,H,W) that is nearest to one of some objects (Q,C), by `pooled` features."""
    _, height, width = x.shape
    summed = torch.zeros(x.shape[0], height + 1, width + 1, dtype=torch.float64)
    summed[:, 1:, 1:] = x.double().cpu().clamp(min=EPS).pow(p).cumsum(1).cumsum(2)
    # Positions first, so that a corner's channels lie side by side.
    integral = summed.permute(1, 2, 0).contiguous()
    objects = queries.double().cpu()

    def scores(rectangles: Tensor) -> Tensor:
        top, left, bottom, right = rectangles.T
        total = integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]
        vectors = total.clamp(min=torch.finfo(torch.float64).tiny).pow(1.0 / p)
        best: Tensor = (vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True) @ objects.T).amax(dim=1)
        return best

    starts = _starts(height, width)
    first = torch.topk(scores(starts), min(STARTS, len(starts))).indices
    refined = [_refined(starts[place], scores, height, width) for place in first]
    rectangle, score = max(refined, key=lambda found: found[1])
    top, left, bottom, right = (int(v) for v in rectangle)
    return Located(
        left=left / width,
        top=top / height,
        width=(right - left) / width,
        height=(bottom - top) / height,
        score=score,
    )


def _starts(height: int, width: int) -> Tensor:
    """Return rectangles (n, 4) as top, left, bottom, right: the R-MAC grid's, and all of a lattice."""
    grid = [(t, left, t + h, left + w) for t, left, h, w in rmac_grid(height, width, LEVELS)]
    rows, columns = _intervals(height), _intervals(width)
    lattice = [(top, left, bottom, right) for top, bottom in rows for left, right in columns]
    return torch.tensor(sorted({*grid, *lattice}))


def _intervals(length: int) -> list[tuple[int, int]]:
    lines = sorted({round(k * length / LATTICE) for k in range(LATTICE + 1)})
    return [(a, b) for a in lines for b in lines if a < b]


def _refined(rectangle: Tensor, scores: Any, height: int, width: int) -> tuple[Tensor, float]:
    """Move one side at a time, by the step that helps most, until none does."""
    best = float(scores(rectangle[None])[0])
    while True:
        moved = [rectangle + step * side for side in torch.eye(4, dtype=torch.long) for step in STEPS]
        inside = [m for m in moved if 0 <= m[0] < m[2] <= height and 0 <= m[1] < m[3] <= width]
        if not inside:
            return rectangle, best
        found = scores(torch.stack(inside))
        if float(found.max()) <= best + 1e-9:
            return rectangle, best
        rectangle, best = inside[int(found.argmax())], float(found.max())
