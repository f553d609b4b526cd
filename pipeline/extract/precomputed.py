"""Vectors that were made elsewhere: they are checked and normalised, and take part in everything that follows.

The source hands them over as little-endian float32 (see sources/parquet.py); no network, no image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field

from pipeline.core.errors import BadImageError
from pipeline.core.storage import Store
from pipeline.core.types import DescriptorBatch
from pipeline.decode import Decoded
from pipeline.extract import ExtractSpec

VALUE = np.dtype("<f4")


class Spec(ExtractSpec):
    """dim: how long every vector is. origin: what made them, in a few words; other vectors need another one."""

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
    """See `pipeline.extract.Extractor`."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def prepare(self, data: bytes) -> Decoded:
        """Check a vector; one of another length, with NaN or infinity, or of length zero is a BadImageError."""
        if len(data) != VALUE.itemsize * self.dim:
            raise BadImageError(f"is no vector of {self.dim} dimensions: {len(data)} bytes")
        vector = np.frombuffer(data, VALUE)
        if not np.isfinite(vector).all():
            raise BadImageError("holds NaN or infinity")
        if not vector.any():
            raise BadImageError("is the zero vector, which is like nothing")
        return Decoded(pixels=vector.view(np.uint8).reshape(1, -1, 1), width=0, height=0)

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return them L2-normalised, (n, d)."""
        vectors = np.stack([image.pixels.reshape(-1).view(VALUE) for image in images]).astype(np.float64)
        # By the largest value first: squares of very large or small ones would overflow or vanish.
        vectors /= np.abs(vectors).max(axis=1, keepdims=True)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return DescriptorBatch(vectors=vectors.astype(np.float32), image_row=np.arange(len(images), dtype=np.int64))
