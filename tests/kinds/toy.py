"""An extractor that needs no network: the vector is drawn from the digest of the image's bytes. For tests of stages."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.core.errors import BadImageError
from pipeline.core.storage import Store
from pipeline.core.types import DescriptorBatch, Floats
from pipeline.decode import Decoded
from pipeline.extract import ExtractSpec

DIM = 16


class Spec(ExtractSpec):
    """seed: a setting, so that recipes can differ."""

    seed: int = 0

    def build(self, store: Store, device: torch.device) -> ToyExtractor:
        return ToyExtractor(self.seed)

    @property
    def label(self) -> str:
        return f"toy {self.seed}"


def vector_of(data: bytes, seed: int = 0) -> Floats:
    """The unit vector of an image."""
    numbers = np.frombuffer(hashlib.sha256(data).digest(), np.uint32)
    x = np.random.default_rng([seed, *numbers.tolist()]).normal(size=DIM)
    return np.asarray(x / np.linalg.norm(x), np.float32)


class ToyExtractor:
    dim = DIM

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def prepare(self, data: bytes) -> Decoded:
        if data.startswith(b"deadly") and os.environ.get("SIGHTLINE_VICTIM") == "E3":
            os.kill(os.getpid(), signal.SIGKILL)
        if data.startswith(b"bad"):
            raise BadImageError("is no image")
        pixels = np.frombuffer(hashlib.sha256(data).digest()[:24], np.uint8).reshape(2, 4, 3)
        vector = vector_of(data, self._seed).view(np.uint8).reshape(1, -1)
        return Decoded(pixels=np.concatenate([pixels.reshape(1, -1), vector], axis=1)[None], width=4, height=2)

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        rows = [image.pixels.reshape(-1)[24:].copy().view(np.float32) for image in images]
        return DescriptorBatch(vectors=np.stack(rows), image_row=np.arange(len(rows)))
