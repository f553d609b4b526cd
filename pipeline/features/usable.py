"""Which descriptors can be searched: those that are finite and not zero, after whitening and as they are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.core.types import DescriptorBatch, DType, Floats, Ints

NOT_FINITE, ZERO = "the descriptor is not finite", "the descriptor is zero"
Mask = npt.NDArray[np.bool_]


def faults(vectors: Floats, dtype: DType = "float32") -> tuple[Mask, Mask]:
    """Return which vectors (n, d) are not finite, and which are zero, after rounding to `dtype`; (n,) each.

    Codes are made of float32 vectors: of a binary one these decide.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        stored = vectors.astype(np.float16) if dtype == "float16" else vectors
    not_finite = np.asarray(~np.isfinite(stored).all(axis=1), np.bool_)
    return not_finite, np.asarray(~not_finite & ~stored.any(axis=1), np.bool_)


def usable(batch: DescriptorBatch, dtype: DType = "float32") -> DescriptorBatch:
    """Return the rows that are finite and not zero; images keep their numbers, and may have none."""
    not_finite, zero = faults(batch.vectors, dtype)
    bad = not_finite | zero
    return taken(batch, ~bad) if bad.any() else batch


def taken(batch: DescriptorBatch, rows: Mask) -> DescriptorBatch:
    """Return the marked rows (m,) of a batch; images keep their numbers, and what is kept beside them."""

    def column(values: Floats | None) -> Floats | None:
        return None if values is None else values[rows]

    return replace(
        batch,
        vectors=batch.vectors[rows],
        image_row=batch.image_row[rows],
        boxes=column(batch.boxes),
        scales=column(batch.scales),
        scores=column(batch.scores),
    )


@dataclass(frozen=True, kw_only=True)
class Whitened:
    """The rows that can be searched, whitened; and of those left out, whose they were, and which are not finite."""

    batch: DescriptorBatch
    images: Ints
    not_finite: Mask

    def reason(self, zero_means: str, image: int = 0) -> str:
        """Return what is wrong with an image that has no row left; zero_means: see ExtractSpec."""
        if self.not_finite[self.images == image].any():
            return NOT_FINITE
        # A comma: what follows a colon is left out where reasons are counted.
        return f"{ZERO}, {zero_means}" if zero_means else ZERO


def whitened(batch: DescriptorBatch, whiten: Callable[[Floats], Floats] | None, dtype: DType) -> Whitened:
    """Whiten what can be whitened, and leave out the rows that are not finite, or zero, before or after.

    A vector of zeros has no direction: whitening would give all such images the same one.
    """
    not_finite, zero = faults(batch.vectors, "float32" if whiten is not None else dtype)
    vectors = batch.vectors
    if whiten is not None:
        good = ~(not_finite | zero)
        some = whiten(vectors[good])
        vectors = np.zeros((len(good), some.shape[1]), np.float32)
        vectors[good] = some
        not_finite[good], zero[good] = faults(some, dtype)
    bad = not_finite | zero
    batch = replace(batch, vectors=vectors)
    return Whitened(
        batch=taken(batch, ~bad) if bad.any() else batch, images=batch.image_row[bad], not_finite=not_finite[bad]
    )
