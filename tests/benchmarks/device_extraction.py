"""The extraction worker against its network alone, on a GPU or the CPU; needs neither Ray, faiss nor a network.

ResNet-50 GeM, random weights, JPEGs of four shapes. "forward": the network on pixels that are on the device, by CUDA's
events where there are any; "passes": with stacking and copies from and to the host. Run it by `python -m
tests.benchmarks.device_extraction [IMAGES] [DEVICE]`; it prints one JSON object per precision, medians of three.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from jobs.weights import named_weights
from pipeline.core.local import LocalStore
from pipeline.core.stats import told
from pipeline.core.types import Entry, Shard
from pipeline.decode import Decoded
from pipeline.extract.pooled import PooledExtractor, Spec
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.sources.folder import Spec as FolderSpec
from pipeline.stages.describe import ExtractOptions
from pipeline.stages.extract import ExtractTask, ExtractWorker
from pipeline.stages.memory import PASSES_ON_GPU, PassSizes
from tests.benchmarks.extraction import BACKBONE, SIZES, WEIGHTS, photographs

ROUNDS, SHARDS = 3, 8


def rate(images: int, work: Callable[[], object]) -> float:
    """Images per second, the median of three rounds."""
    found = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        found.append(images / (time.perf_counter() - started))
    return median(found)


def indexed(worker: ExtractWorker, entries: Sequence[Entry], name: str) -> None:
    """Extract all images as new shards, as many at a time as the worker takes."""
    shards = [
        Shard(id=f"{name}-{number}", uri="bench", etag="1", entries=tuple(entries[number::SHARDS]), bytes=1)
        for number in range(SHARDS)
    ]
    with ThreadPoolExecutor(worker.depth) as pool:
        list(pool.map(worker, shards))


def alone(extractor: PooledExtractor, groups: Sequence[Sequence[Decoded]], threads: int) -> dict[str, float]:
    """Images per second of the network on resident pixels, and of whole passes with their copies."""
    images = sum(len(group) for group in groups)
    passes = threads if extractor.device.type == "cpu" else PASSES_ON_GPU
    with ThreadPoolExecutor(passes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(extractor.extract, groups[:passes]))
        whole = rate(images, lambda: list(pool.map(extractor.extract, groups)))
        if extractor.device.type == "cuda":
            return {
                "forward": images / median(resident_seconds(extractor, groups) for _ in range(ROUNDS)),
                "passes": whole,
            }
        # On a CPU all pixels are resident.
        return {"forward": whole, "passes": whole}


def resident_seconds(extractor: PooledExtractor, groups: Sequence[Sequence[Decoded]]) -> float:
    """Seconds by the device's clock from the first kernel to the last; pixels are there before, vectors after."""
    with extractor.lane.running():
        resident = [extractor.lane.put([image.pixels for image in group]) for group in groups]
        extractor.lane.fetch(*(extractor.vectors_of(pixels) for pixels in resident[:2]))
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        made = [extractor.vectors_of(pixels) for pixels in resident]
        last.record()
        extractor.lane.fetch(*made)
        return float(first.elapsed_time(last)) / 1000


def worked(task: ExtractTask, entries: Sequence[Entry], name: str) -> tuple[float, dict[str, float]]:
    """Images per second of a worker that is warm, and its statistics."""
    worker = task.open(os.cpu_count() or 1)
    turn = iter(range(100))
    indexed(worker, entries, f"{name}-{next(turn)}")
    worker.take_stats()
    ours = rate(len(entries), lambda: indexed(worker, entries, f"{name}-{next(turn)}"))
    return ours, told(worker.take_stats())


def main(images: int, device: torch.device, precision: str, folder: Path) -> dict[str, float]:
    """Run and return the figures: the worker through shards, its forward passes on decoded batches, its decoding."""
    threads = os.cpu_count() or 1
    store = LocalStore(str(folder / "root"))
    weights = Catalog(store).put_artifact(named_weights(BACKBONE, WEIGHTS).to_bytes(), "model.safetensors")
    spec = Spec(backbone=BACKBONE, weights=weights, resize="none", precision=precision)
    source = folder / "src"
    paths = sorted(source.iterdir())
    entries = [Entry(path=path.name, size=path.stat().st_size, etag="1") for path in paths]
    task = ExtractTask(
        root=str(folder / "root"),
        location=str(source),
        recipe=Recipe(source=FolderSpec(), extractor=spec),
        options=ExtractOptions(device=device.type),
    )
    ours, stats = worked(task, entries, precision)
    graphs: dict[str, float] = {}
    if device.type == "cuda":
        with_graphs = replace(task, options=replace(task.options, graphs=True))
        graphs["worker, graphs"] = worked(with_graphs, entries, f"{precision}-graphs")[0]
    extractor = spec.build(store, device)
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        decoded = list(pool.map(extractor.prepare, (path.read_bytes() for path in paths)))
        decode = images / (time.perf_counter() - started)
    size = PassSizes(device).of((SIZES[0][1], SIZES[0][0], 3))
    same = [decoded[number :: len(SIZES)] for number in range(len(SIZES))]
    groups = [part[start : start + size] for part in same for start in range(0, len(part), size)]
    found = {"worker": ours, **graphs, "decode": decode, **alone(extractor, groups, threads)}
    return found | {
        "worker / forward": ours / found["forward"],
        "worker / min(decode, forward)": ours / min(decode, found["forward"]),
        "images per pass": stats["images_per_pass"],
        "idle share of the device": stats["idle_share"],
    }


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    chosen = torch.device(sys.argv[2] if len(sys.argv) > 2 else "cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "src").mkdir()
        for name, data in photographs(count):
            (Path(temporary) / "src" / name).write_bytes(data)
        told_of = {
            f"{chosen.type} {precision}: {key}": round(value, 3)
            for precision in ("fp32", "tf32", "bf16")
            for key, value in main(count, chosen, precision, Path(temporary)).items()
        }
    print(json.dumps(told_of, indent=1))
