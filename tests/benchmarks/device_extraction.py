"""The extraction worker against its network alone, on a GPU or the CPU; needs neither Ray, faiss nor a network.

ResNet-50 GeM, random weights, JPEGs of four shapes. Run it by `python -m tests.benchmarks.device_extraction
[IMAGES] [DEVICE]`; it prints one JSON object per precision, medians of three.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import torch

from jobs.weights import named_weights
from pipeline.core.local import LocalStore
from pipeline.core.types import Entry, Shard
from pipeline.extract.pooled import Spec
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.sources.folder import Spec as FolderSpec
from pipeline.stages.describe import ExtractOptions
from pipeline.stages.extract import ExtractTask
from tests.benchmarks.extraction import BACKBONE, SIZES, WEIGHTS, photographs

ROUNDS, SHARDS = 3, 4


def rate(images: int, work: Callable[[], object]) -> float:
    """Images per second, the median of three rounds."""
    found = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        found.append(images / (time.perf_counter() - started))
    return median(found)


def main(images: int, device: torch.device, precision: str, folder: Path) -> dict[str, float]:
    """Run and return the figures: the worker through shards, its forward passes on decoded batches, its decoding."""
    threads = os.cpu_count() or 1
    store = LocalStore(str(folder / "root"))
    weights = Catalog(store).put_artifact(named_weights(BACKBONE, WEIGHTS).to_bytes(), "model.safetensors")
    spec = Spec(backbone=BACKBONE, weights=weights, resize="none", precision=precision)
    source = folder / "src"
    paths = sorted(source.iterdir())
    entries = [Entry(path=path.name, size=path.stat().st_size, etag="1") for path in paths]
    options = ExtractOptions(device=device.type)
    worker = ExtractTask(
        root=str(folder / "root"),
        location=str(source),
        recipe=Recipe(source=FolderSpec(), extractor=spec),
        options=options,
    ).open(threads)
    turn = [0]

    def index() -> None:
        turn[0] += 1
        shards = [
            Shard(
                id=f"{precision}-{turn[0]}-{number}",
                uri="bench",
                etag="1",
                entries=tuple(entries[number::SHARDS]),
                bytes=1,
            )
            for number in range(SHARDS)
        ]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(worker, shards))

    index()
    ours = rate(images, index)
    extractor = spec.build(store, device)
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        decoded = list(pool.map(extractor.prepare, (path.read_bytes() for path in paths)))
        decode = images / (time.perf_counter() - started)
    most = PIXELS_PER_PASS[device.type] // (SIZES[0][0] * SIZES[0][1])
    size = max(1, min(MOST_PER_PASS, most))
    same = [decoded[number :: len(SIZES)] for number in range(len(SIZES))]
    groups = [part[start : start + size] for part in same for start in range(0, len(part), size)]
    passes = threads if device.type == "cpu" else 1
    with ThreadPoolExecutor(passes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(extractor.extract, groups[:passes]))
        forward = rate(images, lambda: list(pool.map(extractor.extract, groups)))
    return {"worker": ours, "forward": forward, "decode": decode, "worker / forward": ours / forward} | {
        "worker / min(decode, forward)": ours / min(decode, forward)
    }


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    chosen = torch.device(sys.argv[2] if len(sys.argv) > 2 else "cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "src").mkdir()
        for name, data in photographs(count):
            (Path(temporary) / "src" / name).write_bytes(data)
        told = {
            f"{chosen.type} {precision}: {key}": round(value, 3)
            for precision in ("fp32", "bf16")
            for key, value in main(count, chosen, precision, Path(temporary)).items()
        }
    print(json.dumps(told, indent=1))
