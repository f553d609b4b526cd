"""Extraction on a CUDA device gives what it gives on the CPU, and waits for nothing in between. Needs no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.weights import Weights, named_weights
from pipeline.core.local import LocalStore
from pipeline.core.stats import Stats, told
from pipeline.core.types import Artifact, Entry, Floats, Image, Shard
from pipeline.extract import HEADS, Extractor, ExtractSpec, load_network
from pipeline.extract.delf import Spec as DelfSpec
from pipeline.extract.mop import Spec as MopSpec
from pipeline.extract.pooled import Spec
from pipeline.features.device import CudaLane
from pipeline.features.fuse import CudnnConv, optimized
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.sources.folder import Spec as FolderSpec
from pipeline.stages.describe import Describer, ExtractOptions
from pipeline.stages.extract import ExtractTask
from pipeline.table import DescriptorReader
from tests.builders import jpeg, write_files

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CUDA = torch.device("cuda")
BOUNDS = {"fp32": 0.999999, "tf32": 0.9999, "bf16": 0.99}
"""Least cosine to the descriptor of the CPU in float32, by precision."""
ATTENTION = {
    "attention.conv1.weight": (64, 256, 1, 1),
    "attention.conv2.weight": (1, 64, 1, 1),
    "pca.mean": (256,),
    "pca.components": (40, 256),
}


def weights(store: LocalStore, backbone: str, shapes: dict[str, tuple[int, ...]] | None = None) -> Artifact:
    """Random weights, and further tensors of these shapes."""
    named, generator = named_weights(backbone, "random:0"), torch.Generator().manual_seed(0)
    extras = {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in (shapes or {}).items()}
    made = Weights(tensors={**named.tensors, **extras}, origin="random:0")
    return Catalog(store).put_artifact(made.to_bytes(), "model.safetensors")


def pooled(backbone: str = "resnet50", **fields: Any) -> Callable[[LocalStore], ExtractSpec]:
    settings = {"resize": "longest:256", **fields}
    return lambda store: Spec(backbone=backbone, weights=weights(store, backbone), **settings)


def delf(**fields: Any) -> Callable[[LocalStore], ExtractSpec]:
    settings = {"resize": "longest:256", "features": 100, "scales": (0.5, 1.0), **fields}
    return lambda store: DelfSpec(backbone="resnet18", weights=weights(store, "resnet18", ATTENTION), **settings)


KINDS: dict[str, Callable[[LocalStore], ExtractSpec]] = {
    "gem": pooled(),
    "gem of mobilenet_v2": pooled("mobilenet_v2"),
    "gem of vgg16": pooled("vgg16"),
    "gem of vit_b_16": pooled("vit_b_16"),
    "rmac": pooled(pooling="rmac"),
    "rmac, overlapping": pooled(pooling="rmac", rmac_grid="overlap"),
    "crow": pooled(pooling="crow"),
    "raac": pooled(pooling="raac"),
    "centre bias": pooled(center_bias=0.5),
    "scales": pooled(scales=(1.0, 0.7071)),
    "scales of images": pooled(scales=(1.0, 0.7071), scale_resize="image", scale_pooling="signed"),
    "class token": pooled("vit_b_16", pooling="cls", resize="exact:224x224"),
    "delf": delf(),
    "delf, learned attention": delf(attention="learned", threshold=0.5),
    "mop": lambda store: MopSpec(
        backbone="resnet18", weights=weights(store, "resnet18"), side=128, patches=(128, 64), stride=32
    ),
}
"""Every kind with a network, and what of it takes another path on a device."""


def extracted(extractor: Extractor, images: int = 4) -> Floats:
    return extractor.extract([extractor.prepare(jpeg(seed, 320, 240)) for seed in range(images)]).vectors


def least_cosine(one: Floats, other: Floats) -> float:
    assert one.shape == other.shape
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float((np.einsum("nd,nd->n", one.astype(np.float64), other.astype(np.float64)) / lengths).min())


@contextmanager
def no_synchronising_call() -> Iterator[None]:
    """Raise where a call waits for the device; waiting for an event of one's own is none."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
def test_cuda_agrees_with_the_cpu(tmp_path: Path, kind: str) -> None:
    store = LocalStore(str(tmp_path))
    spec = KINDS[kind](store)
    on_cpu, on_gpu = (extracted(spec.build(store, torch.device(device))) for device in ("cpu", "cuda"))
    if spec.local and kind.startswith("delf"):
        # Scores that are equal up to rounding may change places, the last of the best with the next.
        best = (on_gpu @ on_cpu.T).max(axis=1)
        assert abs(len(on_gpu) - len(on_cpu)) <= 0.02 * len(on_cpu)
        assert np.quantile(best, 0.02) > BOUNDS["fp32"]
    else:
        assert least_cosine(on_cpu, on_gpu) > BOUNDS["fp32"]


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2", "vit_b_16"])
def test_precisions_agree_with_float32_of_the_cpu_within_their_bounds(
    tmp_path: Path, backbone: str, precision: str
) -> None:
    store = LocalStore(str(tmp_path))
    expected = extracted(pooled(backbone)(store).build(store, torch.device("cpu")))
    found = extracted(pooled(backbone, precision=precision)(store).build(store, CUDA))
    assert least_cosine(expected, found) > BOUNDS[precision]


def test_fp32_is_strict_and_tf32_is_not_whatever_the_process_had_set(tmp_path: Path) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this card has no TF32")
    store = LocalStore(str(tmp_path))
    strict, loose = (pooled(precision=precision)(store).build(store, CUDA) for precision in ("fp32", "tf32"))
    expected = extracted(pooled()(store).build(store, torch.device("cpu")))
    torch.backends.cudnn.allow_tf32 = True
    for _ in range(2):
        exact, rough = extracted(strict), extracted(loose)
        assert abs(exact - expected).max() < abs(rough - expected).max() / 4


@pytest.mark.parametrize("kind", KINDS)
def test_no_call_of_a_pass_waits_for_the_device(tmp_path: Path, kind: str) -> None:
    store = LocalStore(str(tmp_path))
    extractor = KINDS[kind](store).build(store, CUDA)
    images = [extractor.prepare(jpeg(seed, 320, 240)) for seed in range(4)]
    # The first pass makes constants, slabs and plans.
    extractor.extract(images)
    with no_synchronising_call():
        extractor.extract(images)


def test_passes_of_many_threads_keep_their_images_apart(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    extractor = pooled("resnet18")(store).build(store, CUDA)
    images = [extractor.prepare(jpeg(seed, 320 + 16 * (seed % 5), 240)) for seed in range(60)]
    expected = [extractor.extract([image]).vectors for image in images]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda image: extractor.extract([image]).vectors, images))
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=1e-6)


def test_the_device_says_how_long_it_computed(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    extractor = pooled()(store).build(store, CUDA)
    images = [extractor.prepare(jpeg(seed, 320, 240)) for seed in range(8)]
    extractor.extract(images)
    clock = extractor.take_device_seconds  # type: ignore[attr-defined]
    clock()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    for _ in range(5):
        extractor.extract(images)
    last.record()
    last.synchronize()
    assert 0 < clock() <= first.elapsed_time(last) / 1000


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("backbone", ["resnet50", "vgg16", "squeezenet1_0"])
def test_fused_convolutions_agree_with_plain_ones(tmp_path: Path, backbone: str, precision: str) -> None:
    store = LocalStore(str(tmp_path))
    network, _ = load_network(store, weights(store, backbone), backbone, HEADS)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    fused, plain = optimized(network, CUDA, dtype), optimized(network, CUDA, dtype, None)
    assert [module for module in fused.modules() if isinstance(module, CudnnConv)]
    generator = torch.Generator().manual_seed(0)
    lane = CudaLane(CUDA, tf32=precision == "tf32")
    with lane.running(), lane.arithmetic():
        for shape in ((1, 3, 97, 129), (5, 3, 192, 256)):
            x = torch.randn(shape, generator=generator).to(CUDA, dtype).contiguous(memory_format=torch.channels_last)
            maps = [made.float().flatten(1).cpu().numpy() for made in (fused(x), plain(x))]
            assert least_cosine(maps[0], maps[1]) > BOUNDS[precision]


def test_replayed_passes_give_what_launched_ones_give(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    plain, replayed = (pooled(scales=(1.0, 0.7071))(store).build(store, CUDA) for _ in range(2))
    replayed.use_graphs()  # type: ignore[attr-defined]
    groups = [
        [plain.prepare(jpeg(10 * number + n, *((320, 240) if number % 2 else (240, 240)))) for n in range(3)]
        for number in range(24)
    ]
    expected = [plain.extract(group).vectors for group in groups]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda group: replayed.extract(group).vectors, groups))
    assert least_cosine(np.concatenate(expected), np.concatenate(found)) > BOUNDS["fp32"]


def described(folder: Path, device: str, waiting: int = 2 << 30) -> tuple[list[list[str]], Floats, dict[str, float]]:
    """Keys and vectors of the shards of folder/src, given to a worker as many at a time as it takes; its statistics."""
    store = LocalStore(str(folder / "root"))
    worker = ExtractTask(
        root=str(folder / "root"),
        location=str(folder / "src"),
        recipe=Recipe(source=FolderSpec(), extractor=pooled(resize="none")(store), dtype="float32"),
        options=ExtractOptions(device=device, waiting=waiting),
    ).open(4)
    paths = sorted((folder / "src").iterdir())
    entries = tuple(Entry(path=path.name, size=path.stat().st_size, etag="1") for path in paths)
    shards = [Shard(id=f"{device}{n}", uri="src", bytes=1, etag="1", entries=entries[n::6]) for n in range(6)]
    with ThreadPoolExecutor(worker.depth) as pool:
        records = list(pool.map(worker, shards))
    readers = [DescriptorReader(folder / "root" / record.artifact.uri) for record in records]
    vectors = np.concatenate([reader.vectors() for reader in readers])
    return [reader.keys() for reader in readers], vectors, told(worker.take_stats())


def test_the_worker_gives_on_cuda_what_it_gives_on_the_cpu(tmp_path: Path) -> None:
    """Slabs, streams, two passes at a time, images of five shards in a pass."""
    sizes = [(320, 240) if number % 3 else (240, 320 + number % 5) for number in range(120)]
    write_files(tmp_path / "src", {f"{n:03d}.jpg": jpeg(n, *size) for n, size in enumerate(sizes)})
    keys, vectors, on_cpu = described(tmp_path, "cpu")
    found, on_gpu, stats = described(tmp_path, "cuda")
    assert found == keys
    assert least_cosine(vectors, on_gpu) > BOUNDS["fp32"]
    assert stats["images_per_pass"] > 2 * on_cpu["images_per_pass"]
    assert 0 < stats["device_seconds"] < stats["busy_seconds"]


def test_a_pass_that_does_not_fit_is_halved_and_the_size_that_fits_is_kept(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    extractor = pooled(resize="none")(store).build(store, CUDA)
    images = [Image(key=f"{n:02d}", uri="", data=jpeg(n, 1024, 768)) for n in range(40)]
    torch.cuda.empty_cache()
    reserved, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (reserved + (1 << 30)) / total))
    try:
        describer = Describer(extractor, CUDA, 4, ExtractOptions(device="cuda", batch=20), Stats())
        found = describer(images)
        assert [row.key for row in found.images] == [image.key for image in images]
        again = describer(images)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert least_cosine(found.batch.vectors, again.batch.vectors) > BOUNDS["fp32"]


@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2"])
def test_a_compiled_network_agrees(tmp_path: Path, backbone: str) -> None:
    """torch.compile is not used (decision 0008); this keeps the choice open: the folded graph compiles, values stay."""
    store = LocalStore(str(tmp_path))
    network, _ = load_network(store, weights(store, backbone), backbone, HEADS)
    plain = optimized(network, CUDA, torch.float32, None)
    x = torch.randn(4, 3, 192, 256, generator=torch.Generator().manual_seed(0)).to(CUDA)
    with torch.inference_mode():
        expected, found = (one(x).flatten(1).cpu().numpy() for one in (plain, torch.compile(plain)))
    assert least_cosine(expected, found) > BOUNDS["tf32"]
