"""Images/s of a worker that reads single files from S3 at 40 ms a request, against what decoding alone allows.

Run it by `python -m tests.benchmarks.reads [IMAGES [THREADS]]`; it prints one JSON object. No network: descriptors are
those of an extractor that does nothing but decode. The service runs in a process of its own, on the same cores.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.core.stats import Stats
from pipeline.core.storage import open_store
from pipeline.core.types import DescriptorBatch, Entry, Image, Reject, Shard
from pipeline.decode import Decoded, Limits, Resize, decode, needed
from pipeline.sources._files import read_entries
from pipeline.stages.describe import Describer, ExtractOptions
from tests.benchmarks.slow_s3 import slow_s3
from tests.builders import jpeg

PAUSE = 0.04
SIZES = ((500, 375), (1024, 768))
RESIZE = Resize.parse("longest:512")


class DecodeOnly:
    """An extractor without a network."""

    dim = 1

    def prepare(self, data: bytes) -> Decoded:
        """Decode, as the network's extractors do."""
        return decode(data, RESIZE)

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Nothing."""
        return DescriptorBatch.of_images(np.ones((len(images), 1), np.float32))


def weigh(data: bytes) -> int:
    """Memory of decoding an image."""
    return needed(data, RESIZE, Limits(), reduced=False)


def rate(items: Callable[[], Iterable[Image | Reject]], threads: int) -> tuple[float, float]:
    """Return images and CPU seconds per second of describing some items."""
    options = ExtractOptions(device="cpu", decode_threads=threads)
    describe = Describer(DecodeOnly(), torch.device("cpu"), 1, options, Stats(), weigh=weigh)
    started, used = time.perf_counter(), time.process_time()
    found = describe(items())
    took = time.perf_counter() - started
    assert not found.rejects, found.rejects[:1]
    return len(found.images) / took, (time.process_time() - used) / len(found.images)


def main(images: int, threads: int) -> dict[str, float]:
    """Run and return the figures."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    figures: dict[str, float] = {}
    for width, height in SIZES:
        data = jpeg(1, width, height)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "image.jpg"
            file.write_bytes(data)
            with slow_s3(file, PAUSE) as endpoint:
                store = open_store(f"s3://bucket/src?endpoint={endpoint}")
                entries = tuple(Entry(path=f"{n:06d}.jpg", size=len(data), etag="1") for n in range(images))
                shard = Shard(id="a", uri="u", bytes=len(data) * images, etag="1", entries=entries)
                known = [Image(key=entry.path, uri=entry.path, data=data) for entry in entries]
                store.read("first")
                rate(lambda known=known: known[:100], threads)  # type: ignore[misc]
                alone, cpu = rate(lambda known=known: known, threads)  # type: ignore[misc]
                reading, both = rate(lambda store=store, shard=shard: read_entries(store, shard), threads)  # type: ignore[misc]
        name = f"{width}x{height}"
        figures |= {
            f"{name}: images/s decoding alone": alone,
            f"{name}: images/s from S3": reading,
            f"{name}: share": reading / alone,
            f"{name}: ms of CPU per image, decoding alone": 1000 * cpu,
            f"{name}: ms of CPU per image, from S3": 1000 * both,
        }
    return figures


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:3]]
    print(json.dumps({key: round(value, 3) for key, value in main(*(numbers + [1000, 2][len(numbers) :])).items()}))
