"""Images per forward pass: the batching of a GPU worker over shapes of real and drawn photographs. Needs no GPU.

Shards of 512 images through pipeline.stages.passes, once with passes of one shard and once shared, by how many shards
wait and by how many bytes. Shapes: the museum's photographs where SIGHTLINE_REAL_DATA names them, scaled to
longest:1024; as many more as wanted, drawn around their aspects; cameras; both mixed. `python -m
tests.benchmarks.batching [IMAGES]` prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.decode import Decoded
from pipeline.stages.memory import PassSizes
from pipeline.stages.passes import Batching, Passes

LONGEST, PACK = 1024, 512
CAMERAS = {(768, 1024): 45, (1024, 768): 25, (683, 1024): 12, (1024, 683): 6, (576, 1024): 8, (1024, 576): 4}
"""(height, width) of photographs as cameras and phones make them, and how common they are."""
Size = tuple[int, int]


def fitted(width: float, height: float) -> Size:
    """Return (height, width) with the longest side at 1024."""
    scale = LONGEST / max(width, height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def museum() -> list[Size]:
    """Sizes of the museum's photographs; of pictures of any aspect where there are none."""
    data = os.environ.get("SIGHTLINE_REAL_DATA", "")
    real = sorted((Path(data) / "museum" / "BBDD").glob("*.jpg")) if data else []
    sizes = [Image.open(path).size for path in real]
    return [fitted(*size) for size in sizes] or [fitted(512 + n, 1024 - n) for n in range(287)]


def drawn(images: int, seed: int) -> list[Size]:
    """As many sizes as wanted, of aspects like the museum's: each a real one moved by up to 2 per cent."""
    dice, known = random.Random(seed), museum()
    found = []
    for _ in range(images):
        height, width = dice.choice(known)
        found.append(fitted(width * dice.uniform(0.98, 1.02), height))
    return found


def cameras(images: int, seed: int) -> list[Size]:
    """Sizes as cameras make them."""
    return random.Random(seed).choices(list(CAMERAS), list(CAMERAS.values()), k=images)


def mixed(images: int, seed: int) -> list[Size]:
    """Half of either."""
    both = cameras(images // 2, seed) + drawn(images - images // 2, seed)
    random.Random(seed).shuffle(both)
    return both


def per_pass(sizes: Sequence[Size], batching: Batching, depth: int, pack: int = PACK) -> float:
    """Return the mean images per pass of shards in a row, `depth` of them in the worker at a time."""
    passes_made: list[int] = []

    def work(images: Sequence[Decoded]) -> list[int]:
        passes_made.append(len(images))
        return [0] * len(images)

    passes: Passes[int] = Passes(work, ThreadPoolExecutor(1), batching)
    reading = threading.Lock()

    def describe(shard: Sequence[Size]) -> int:
        with passes.shard() as part:
            with reading:
                for row, (height, width) in enumerate(shard):
                    # Pixels that say how large they are and take no memory.
                    pixels = np.broadcast_to(np.zeros(3, np.uint8), (height, width, 3))
                    part.add(row, Decoded(pixels=pixels, width=width, height=height))
            return len(part.results())

    with ThreadPoolExecutor(depth) as pool:
        shards = [sizes[start : start + pack] for start in range(0, len(sizes), pack)]
        assert sum(pool.map(describe, shards)) == len(sizes)
    return len(sizes) / len(passes_made)


def rows(images: int) -> Iterator[tuple[str, float]]:
    """Yield what was measured, in words, and its figure."""
    plain = Batching(per_pass=PassSizes(torch.device("cuda")).of, budget=512 << 20, in_flight=512 << 20, ahead=8)
    collections = {
        "museum, 287 as they are": museum(),
        f"museum, {images} drawn": drawn(images, 0),
        f"cameras, {images}": cameras(images, 0),
        f"mixed, {images}": mixed(images, 0),
    }
    for name, sizes in collections.items():
        yield f"{name}: shapes", len(set(sizes))
        pack = PACK if len(sizes) > PACK else 72
        yield f"{name}: of one shard", per_pass(sizes, plain, 2, pack)
        for gigabytes in (0.5, 2.0, 4.0):
            for later in (1, 3, 6):
                shared = replace(plain, shared=True, later=later, budget=int(gigabytes * (1 << 30)), seconds=1e6)
                yield f"{name}: shared, {later} waiting, {gigabytes:g} GiB", per_pass(sizes, shared, later + 2, pack)


if __name__ == "__main__":
    told = {name: round(value, 2) for name, value in rows(int(sys.argv[1]) if len(sys.argv) > 1 else 8192)}
    print(json.dumps(told, indent=1))
