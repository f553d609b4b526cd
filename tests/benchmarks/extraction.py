"""Extraction against a loop as research code has it, and against the network alone on the same decoded images.

ResNet-50 GeM with random weights on photographs of 640x480, 640x360, 360x640, 480x640; each measurement in a process of
its own, in turn, medians of three. SIGHTLINE_REAL_DATA names real photographs; else pictures are generated. Run it by
`python -m tests.benchmarks.extraction [IMAGES]`; it prints one JSON object.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jobs.index import IndexOptions, run_index
from jobs.progress import Reporter
from jobs.recipe import RecipeOptions
from jobs.weights import named_weights
from pipeline.core.local import LocalStore
from pipeline.core.types import Floats
from pipeline.decode import Decoded
from pipeline.extract.pooled import Spec
from pipeline.features.backbones import build_backbone, load_state, random_tensors
from pipeline.publish.catalog import Catalog
from pipeline.table import DescriptorReader
from tests.builders import encoded, picture

SIZES = ((640, 480), (640, 360), (360, 640), (480, 640))
BACKBONE, WEIGHTS, ROUNDS = "resnet50", "random:0", 3


def photographs(images: int) -> Iterator[tuple[str, bytes]]:
    """JPEGs of the four sizes in turn: real ones where there are any, else smooth random pictures with grain."""
    data = os.environ.get("SIGHTLINE_REAL_DATA", "")
    real = sorted((Path(data) / "museum" / "BBDD").glob("*.jpg")) if data else []
    for number in range(images):
        size = SIZES[number % len(SIZES)]
        if real:
            image = Image.open(real[number % len(real)]).convert("RGB").resize(size, Image.Resampling.LANCZOS)
        else:
            grain = np.random.default_rng(number).normal(0, 12, (size[1], size[0], 3))
            image = Image.fromarray(np.clip(np.asarray(picture(number, *size)) + grain, 0, 255).astype(np.uint8))
        yield f"{number:05d}.jpg", encoded(image, "JPEG", quality=90)


def tensor(data: bytes) -> Tensor:
    """Decode and normalise as torchvision's transforms do. (1,3,H,W)."""
    pixels = torch.from_numpy(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).copy())
    x = pixels.permute(2, 0, 1).float().div(255)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((x - mean) / std).contiguous().unsqueeze(0)


class Files(Dataset[Tensor]):
    """The photographs as a DataLoader wants them."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> Tensor:
        return tensor(self._paths[number].read_bytes())[0]


def reference(folder: Path, loader_workers: int) -> dict[str, Any]:
    """One image per batch in float32, as torchvision's network comes; all cores to the network."""
    network = build_backbone(BACKBONE)
    load_state(network, random_tensors(BACKBONE, 0))
    paths = sorted(folder.glob("*.jpg"))
    inputs: Any = (tensor(path.read_bytes()) for path in paths)
    if loader_workers:
        inputs = DataLoader(Files(paths), batch_size=1, num_workers=loader_workers)
    found = []
    with torch.inference_mode():
        network(tensor(paths[0].read_bytes()))
        started = time.perf_counter()
        for x in inputs:
            pooled = network(x).clamp(min=1e-6).pow(3).mean((-2, -1)).pow(1 / 3)
            found.append(torch.nn.functional.normalize(pooled, dim=1)[0].numpy())
        seconds = time.perf_counter() - started
    return {"rate": len(paths) / seconds, "vectors": np.stack(found)}


def index(folder: Path, precision: str) -> dict[str, Any]:
    """The extract phase of `sightline index`, one shard."""
    with tempfile.TemporaryDirectory() as root:
        recipe = RecipeOptions(
            backbone=BACKBONE, weights=WEIGHTS, resize="none", precision=precision, indexes=("flat",), dtype="float32"
        )
        options = IndexOptions(source=str(folder), root=root, recipe=recipe)
        report = run_index(options, Reporter(io.StringIO()))
        (path,) = Path(root).glob("descriptors/*/*.parquet")
        return {
            "rate": report.images["indexed"] / report.stats["busy_seconds"],
            "vectors": DescriptorReader(path).vectors(),
        }


def alone(folder: Path, precision: str) -> dict[str, Any]:
    """The extractor's forward passes alone, as many side by side as there are cores; and decoding alone."""
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as root:
        store = LocalStore(root)
        weights = Catalog(store).put_artifact(named_weights(BACKBONE, WEIGHTS).to_bytes(), "model.safetensors")
        spec = Spec(backbone=BACKBONE, weights=weights, resize="none", precision=precision)
        extractor = spec.build(store, torch.device("cpu"))
    data = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        started = time.perf_counter()
        decoded: list[Decoded] = list(pool.map(extractor.prepare, data))
        decode = time.perf_counter() - started
        list(pool.map(lambda image: extractor.extract([image]), decoded[:4]))
        started = time.perf_counter()
        list(pool.map(lambda image: extractor.extract([image]), decoded))
        forward = time.perf_counter() - started
    return {"rate": len(data) / forward, "decode": len(data) / decode}


MEASURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "reference": lambda folder: reference(folder, 0),
    "loader": lambda folder: reference(folder, 2),
    "index fp32": lambda folder: index(folder, "fp32"),
    "index bf16": lambda folder: index(folder, "bf16"),
    "forward fp32": lambda folder: alone(folder, "fp32"),
    "forward bf16": lambda folder: alone(folder, "bf16"),
}


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    out = folder.parent / f"{name.replace(' ', '-')}.npz"
    subprocess.run([sys.executable, "-m", __spec__.name, "--one", name, str(folder), str(out)], check=True)
    with np.load(out) as found:
        return {key: found[key] for key in found.files}


def least_cosine(one: Floats, other: Floats) -> float:
    """The worst agreement of two sets of unit vectors."""
    return float(np.einsum("nd,nd->n", one.astype(np.float64), other.astype(np.float64)).min())


def main(images: int) -> dict[str, float]:
    """Run and return the figures."""
    rates: dict[str, list[float]] = {name: [] for name in (*MEASURES, "decode")}
    vectors: dict[str, Floats] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photographs"
        folder.mkdir()
        for key, data in photographs(images):
            (folder / key).write_bytes(data)
        for _ in range(ROUNDS):
            for measure in MEASURES:
                found = measured(measure, folder)
                rates[measure].append(float(found["rate"]))
                if "decode" in found:
                    rates["decode"].append(float(found["decode"]))
                if "vectors" in found:
                    vectors[measure] = found["vectors"]
    rate = {key: median(values) for key, values in rates.items()}
    figures = {f"images/s, {key}": value for key, value in rate.items()}
    for precision in ("fp32", "bf16"):
        ours, forward = rate[f"index {precision}"], rate[f"forward {precision}"]
        figures |= {
            f"{precision} / reference": ours / rate["reference"],
            f"{precision} / reference with loader": ours / rate["loader"],
            f"{precision} / forward alone": ours / forward,
            f"{precision} / forward and decoding on the same cores": ours * (1 / forward + 1 / rate["decode"]),
            f"{precision}, least cosine to the reference": least_cosine(
                vectors["reference"], vectors[f"index {precision}"]
            ),
        }
    return figures


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        np.savez(sys.argv[4], **MEASURES[sys.argv[2]](Path(sys.argv[3])))
    else:
        result = main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)
        print(json.dumps({key: round(value, 6) for key, value in result.items()}, indent=1))
