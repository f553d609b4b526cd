"""Vectors that were made elsewhere: they are checked and normalised, and take part in everything that follows.

The source hands them over as little-endian float32 (see sources/parquet.py); no network, no image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from pipeline.core.errors import BadImageError
from pipeline.core.storage import Store
from pipeline.core.types import DescriptorBatch, Floats
from pipeline.core.vectors import VALUE, Mask, VectorBlock
from pipeline.decode import Decoded
from pipeline.extract import ExtractSpec

NOT_FINITE, ZERO = "holds NaN or infinity", "is the zero vector, which is like nothing"


class Spec(ExtractSpec):
    """dim: how long every vector is. origin: what made them, in a few words; other vectors need another one."""

    takes_vectors: ClassVar[bool] = True

    dim: int = Field(ge=1, le=1 << 16)
    origin: str = ""

    @property
    def label(self) -> str:
        """Where they come from, and their length."""
        return f"vectors of {self.origin or 'elsewhere'}, {self.dim} dimensions"

    def build(self, store: Store, device: torch.device) -> PrecomputedExtractor:  # noqa: ARG002 - nothing to load
        """Return the extractor; there is nothing to load."""
        return PrecomputedExtractor(self.dim)


class PrecomputedExtractor:
    """See `pipeline.extract.Extractor` and `pipeline.extract.VectorExtractor`."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def prepare(self, data: bytes) -> Decoded:
        """Check a vector; one of another length, with NaN or infinity, or of length zero is a BadImageError."""
        if len(data) != VALUE.itemsize * self.dim:
            raise BadImageError(self._wrong_length(len(data)))
        vector = np.frombuffer(data, VALUE)
        not_finite, zero = _faults(vector[None])
        if not_finite[0] or zero[0]:
            raise BadImageError(NOT_FINITE if not_finite[0] else ZERO)
        return Decoded(pixels=vector.view(np.uint8).reshape(1, -1, 1), width=0, height=0)

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return them L2-normalised, (n, d)."""
        vectors = np.stack([image.pixels.reshape(-1).view(VALUE) for image in images])
        return DescriptorBatch.of_images(_normalized(vectors))

    def normalized(self, block: VectorBlock) -> tuple[Floats, dict[int, str]]:
        """Return the vectors that can be used L2-normalised, (m, d), and the reasons of the other rows; see `prepare`.

        A row that is null is among neither.
        """
        fits = block.there & (block.lengths == self.dim)
        wrong = np.flatnonzero(block.there & ~fits).tolist()
        reasons = {row: self._wrong_length(int(block.lengths[row]) * VALUE.itemsize) for row in wrong}
        matrix = block.matrix(fits, self.dim)
        not_finite, zero = _faults(matrix)
        rows = np.flatnonzero(fits)
        for mask, reason in ((not_finite, NOT_FINITE), (zero, ZERO)):
            reasons.update(dict.fromkeys(rows[mask].tolist(), reason))
        bad = not_finite | zero
        return _normalized(matrix[~bad] if bad.any() else matrix), reasons

    def _wrong_length(self, size: int) -> str:
        return f"is no vector of {self.dim} dimensions: {size} bytes"


def _faults(vectors: Floats) -> tuple[Mask, Mask]:
    """Return which of some vectors (n, d) are not finite, and which are zero; (n,) each."""
    not_finite = np.asarray(~np.isfinite(vectors).all(axis=1), np.bool_)
    return not_finite, np.asarray(~not_finite & ~vectors.any(axis=1), np.bool_)


def _normalized(raw: Floats) -> Floats:
    vectors = raw.astype(np.float64)
    # By the largest value first: squares of very large or small ones would overflow or vanish.
    vectors /= np.abs(vectors).max(axis=1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)
