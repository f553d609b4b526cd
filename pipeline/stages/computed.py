"""What was trained and filled, on which device, and how many multiply-adds of distances that took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Computed:
    """One training or fill. device: a GPU's name, or cpu and why. multiply_adds: of all distances, see Engine."""

    phase: Literal["train", "fill"]
    kind: str
    device: str
    rows: int
    multiply_adds: float
    seconds: float

    @property
    def on_gpu(self) -> bool:
        """Whether it was computed on one."""
        return not self.device.startswith("cpu")


def summed(parts: Iterable[Computed]) -> list[Computed]:
    """Return one sum per phase, kind and device, in the order in which they came."""
    sums: dict[tuple[str, str, str], Computed] = {}
    for part in parts:
        key = (part.phase, part.kind, part.device)
        before = sums.get(key)
        sums[key] = (
            part
            if before is None
            else replace(
                before,
                rows=before.rows + part.rows,
                multiply_adds=before.multiply_adds + part.multiply_adds,
                seconds=before.seconds + part.seconds,
            )
        )
    return list(sums.values())


def rows_on_gpu(parts: Iterable[Computed]) -> dict[str, float]:
    """Return the vectors trained on and filled on GPUs as counts of a summary; none where there were none."""
    counts: dict[str, float] = {}
    for part in parts:
        if part.on_gpu:
            name = f"{part.phase}_rows_on_gpu"
            counts[name] = counts.get(name, 0.0) + part.rows
    return counts
