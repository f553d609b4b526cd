"""Decoding ahead is bounded by memory: by the node's, by what is really decoded, and by what is held after it."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence

import numpy as np
import PIL.Image
import pytest
import torch

from pipeline.core.stats import Stats
from pipeline.core.types import DescriptorBatch, Image
from pipeline.decode import Decoded, Limits, Resize, needed
from pipeline.stages.decode_memory import LEAST, decode_budget
from pipeline.stages.describe import Describer, ExtractOptions

GIB = 1 << 30
FULL = Resize.parse("longest:1024")


def weigh(data: bytes) -> int:
    return needed(data, FULL, Limits(), reduced=False)


def weigh_reduced(data: bytes) -> int:
    return needed(data, FULL, Limits(), reduced=True)


def photograph(width: int, height: int) -> bytes:
    out = io.BytesIO()
    PIL.Image.new("RGB", (width, height)).save(out, "JPEG")
    return out.getvalue()


class Slow:
    """Decodes nothing; counts how many do so side by side, and waits until `wanted` have been seen."""

    dim = 1

    def __init__(self, wanted: int) -> None:
        self._wanted, self._lock, self._enough = wanted, threading.Lock(), threading.Event()
        self.running = self.most = 0

    def prepare(self, data: bytes) -> Decoded:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            if self.most >= self._wanted:
                self._enough.set()
        self._enough.wait(5)
        with self._lock:
            self.running -= 1
        return Decoded(pixels=np.zeros((768, 1024, 3), np.uint8), width=4000, height=3000)

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        return DescriptorBatch.of_images(np.ones((len(images), 1), np.float32))


@pytest.mark.parametrize(
    ("megapixels", "gib", "at_once"),
    [((4000, 3000), 16, 8), ((6000, 4000), 16, 8), ((6000, 4000), 2, 3), ((6000, 4000), 0.5, 1)],
)
def test_all_threads_decode_where_memory_allows(megapixels: tuple[int, int], gib: float, at_once: int) -> None:
    data = photograph(*megapixels)
    free = int(gib * GIB)
    budget = decode_budget(8, 8, limit=lambda: free, available=lambda: free)
    extractor = Slow(at_once)
    options = ExtractOptions(decode_threads=8, decode_bytes=budget)
    describe = Describer(extractor, torch.device("cpu"), 1, options, Stats(), weigh=weigh)
    found = describe(Image(key=f"{n}", uri=f"u/{n}", data=data) for n in range(24))
    assert len(found.images) == 24
    assert extractor.most == at_once
    assert at_once == 1 or at_once * weigh(data) <= budget


def test_jpegs_that_are_decoded_reduced_weigh_what_is_decoded() -> None:
    data = photograph(6000, 4000)
    assert weigh_reduced(data) < weigh(data) / 3


def test_a_worker_has_the_share_of_memory_that_it_has_of_the_cores() -> None:
    def budget(threads: int, limit: int, available: int) -> int:
        return decode_budget(threads, 16, limit=lambda: limit, available=lambda: available)

    assert budget(16, 64 * GIB, 60 * GIB) == 16 * GIB
    assert budget(4, 64 * GIB, 60 * GIB) == 4 * GIB
    assert budget(64, 64 * GIB, 60 * GIB) == 16 * GIB, "more threads than cores have no more memory"
    assert budget(16, 64 * GIB, 8 * GIB) == 4 * GIB, "what others use is not there"
    assert budget(1, 1 * GIB, 1 * GIB) == LEAST
    assert decode_budget(2) >= LEAST
