"""Extraction on a CUDA device gives what it gives on the CPU. Needs neither Ray nor a network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.weights import named_weights
from pipeline.core.local import LocalStore
from pipeline.core.types import Entry, Floats, Shard
from pipeline.extract.pooled import Spec
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.sources.folder import Spec as FolderSpec
from pipeline.stages.describe import ExtractOptions
from pipeline.stages.extract import ExtractTask
from pipeline.table import DescriptorReader
from tests.builders import jpeg, write_files

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2", "vit_b_16"])
@pytest.mark.parametrize("fields", [{}, {"pooling": "rmac"}, {"scales": (1.0, 0.7071)}, {"precision": "bf16"}], ids=str)
def test_cuda_agrees_with_the_cpu(tmp_path: Path, backbone: str, fields: dict[str, Any]) -> None:
    store = LocalStore(str(tmp_path))
    weights = Catalog(store).put_artifact(named_weights(backbone, "random:0").to_bytes(), "model.safetensors")
    spec = Spec(backbone=backbone, weights=weights, resize="longest:256", **fields)
    vectors = []
    for device in ("cpu", "cuda"):
        extractor = spec.build(store, torch.device(device))
        vectors.append(extractor.extract([extractor.prepare(jpeg(seed, 320, 240)) for seed in range(4)]).vectors)
    cosine = np.einsum("nd,nd->n", *vectors)
    assert cosine.min() > (0.99 if fields.get("precision") == "bf16" else 0.9999)


def described(folder: Path, device: str) -> tuple[list[list[str]], Floats]:
    """Keys and vectors of the two shards of folder/src, given to a worker at a time."""
    store = LocalStore(str(folder / "root"))
    weights = Catalog(store).put_artifact(named_weights("resnet50", "random:0").to_bytes(), "model.safetensors")
    spec = Spec(backbone="resnet50", weights=weights, resize="none")
    worker = ExtractTask(
        root=str(folder / "root"),
        location=str(folder / "src"),
        recipe=Recipe(source=FolderSpec(), extractor=spec, dtype="float32"),
        options=ExtractOptions(device=device),
    ).open(4)
    paths = sorted((folder / "src").iterdir())
    entries = tuple(Entry(path=path.name, size=path.stat().st_size, etag="1") for path in paths)
    shards = [Shard(id=f"{device}{n}", uri="src", bytes=1, etag="1", entries=entries[n::2]) for n in range(2)]
    with ThreadPoolExecutor(2) as pool:
        records = list(pool.map(worker, shards))
    readers = [DescriptorReader(folder / "root" / record.artifact.uri) for record in records]
    return [reader.keys() for reader in readers], np.concatenate([reader.vectors() for reader in readers])


def test_the_worker_gives_on_cuda_what_it_gives_on_the_cpu(tmp_path: Path) -> None:
    """Pinned copies, two passes at a time, batches by shape, two shards at a time."""
    sizes = [(320, 240) if number % 3 else (240, 320) for number in range(40)]
    write_files(tmp_path / "src", {f"{n:03d}.jpg": jpeg(n, *size) for n, size in enumerate(sizes)})
    keys, vectors = described(tmp_path, "cpu")
    found, on_gpu = described(tmp_path, "cuda")
    assert found == keys
    assert np.einsum("nd,nd->n", vectors, on_gpu).min() > 0.9999


@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2"])
def test_a_compiled_network_agrees(tmp_path: Path, backbone: str) -> None:
    """torch.compile is not used (decision 0008); this keeps the choice open: the fused graph compiles, values stay."""
    store = LocalStore(str(tmp_path))
    weights = Catalog(store).put_artifact(named_weights(backbone, "random:0").to_bytes(), "model.safetensors")
    extractor = Spec(backbone=backbone, weights=weights, resize="longest:256").build(store, torch.device("cuda"))
    images = [extractor.prepare(jpeg(seed, 320, 240)) for seed in range(4)]
    plain = extractor.extract(images).vectors
    extractor._network = torch.compile(extractor._network)
    assert np.einsum("nd,nd->n", plain, extractor.extract(images).vectors).min() > 0.9999
