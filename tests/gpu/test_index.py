"""Training and filling on a CUDA device give what they give on the CPU. Needs neither Ray nor a network."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from pipeline.core.types import Floats
from pipeline.index import _kmeans
from pipeline.index._engine import Encoder, TorchEngine, engine_for
from pipeline.index.hnsw import Spec as HnswSpec
from pipeline.index.ivfpq import Spec
from tests.contracts.test_indexes import NOBODY, unit

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
ROWS, QUERIES, DIM, SEEDS = 60_000, 2_000, 64, 4
SETTINGS: list[dict[str, Any]] = [{}, {"opq": False}, {"m": 24}, {"fast_scan": True}, {"nbits": 6}]


def vectors() -> tuple[Floats, Floats]:
    """Return vectors (ROWS, DIM) and queries (QUERIES, DIM) in clusters, of decaying variance."""
    x = unit(ROWS + QUERIES, DIM) * 0.96 ** np.arange(DIM, dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x[:ROWS], x[ROWS:]


def recall(spec: Spec, path: Path, x: Floats, queries: Floats) -> float:
    exact = np.argsort(-(queries @ x.T), axis=1)[:, :10]
    found = spec.load(path, rows=len(x), dim=DIM).search(queries, 10, exclude=NOBODY)[1]
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]))


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_a_fill_on_cuda_has_the_codes_of_the_cpu(fields: dict[str, Any], tmp_path: Path) -> None:
    x, queries = vectors()
    spec = Spec(nlist=300, **fields).resolve(rows=ROWS, dim=DIM)
    spec.train(x, dim=DIM, seed=0, path=tmp_path / "trained")
    index = faiss.read_index(str(tmp_path / "trained"))
    ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
    rotated = index.chain.at(0).apply(x) if isinstance(index, faiss.IndexPreTransform) else x
    theirs = ivf.sa_encode(np.ascontiguousarray(rotated))
    ours = Encoder.of(index, torch.device("cuda"), 1 << 26).encode(x)
    assert (ours == theirs).all(axis=1).mean() > 0.999
    for file, engine in (("cpu", None), ("cuda", engine_for("cuda"))):
        spec.fill(tmp_path / "trained", [(0, x)], tmp_path / file, engine=engine)
    assert abs(recall(spec, tmp_path / "cuda", x, queries) - recall(spec, tmp_path / "cpu", x, queries)) < 0.001


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_training_on_cuda_finds_what_training_on_the_cpu_finds(fields: dict[str, Any], tmp_path: Path) -> None:
    """On average over trainings: other seeds differ by about a hundredth, on either."""
    x, queries = vectors()
    spec = Spec(nlist=300, **fields).resolve(rows=ROWS, dim=DIM)
    found: dict[str, list[float]] = {"cpu": [], "cuda": []}
    for seed, (file, engine) in product(range(SEEDS), (("cpu", None), ("cuda", engine_for("cuda")))):
        spec.train(x, dim=DIM, seed=seed, path=tmp_path / file, engine=engine)
        spec.fill(tmp_path / file, [(0, x)], tmp_path / "filled")
        found[file].append(recall(spec, tmp_path / "filled", x, queries))
    assert np.mean(found["cuda"]) > np.mean(found["cpu"]) - 0.005


def test_training_on_cuda_gives_the_same_bits_every_time_and_those_of_torch_on_the_cpu_nearly(tmp_path: Path) -> None:
    x, _ = vectors()
    spec = Spec(nlist=100).resolve(rows=ROWS, dim=DIM)
    for file in ("one", "other"):
        spec.train(x, dim=DIM, seed=0, path=tmp_path / file, engine=engine_for("cuda"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    spec.train(x, dim=DIM, seed=0, path=tmp_path / "cpu", engine=TorchEngine(torch.device("cpu")))
    errors = [spec.health(tmp_path / file, x)["quantisation_error"] for file in ("one", "cpu")]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


def test_assignment_is_in_float32_proper_even_where_a_process_allows_tf32() -> None:
    x, _ = vectors()
    points = torch.from_numpy(x)[None]
    lists = points[:, :300]
    expected = _kmeans.nearest(points, lists, spherical=True, at_once=1 << 22)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with _kmeans.strict():
            found = _kmeans.nearest(points.cuda(), lists.cuda(), spherical=True, at_once=1 << 22)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert (found.cpu() == expected).double().mean() > 0.9999


@pytest.mark.skipif(not hasattr(faiss, "GpuIndexCagra"), reason="faiss without cuVS")
def test_a_graph_of_cagra_finds_what_one_by_insertion_finds(tmp_path: Path) -> None:
    x, queries = vectors()
    exact = np.argsort(-(queries @ x.T), axis=1)[:, :10]
    found = {}
    for build in ("insert", "cagra"):
        spec = HnswSpec(build=build)
        spec.train(x[:0], dim=DIM, seed=0, path=tmp_path / "trained")
        spec.fill(tmp_path / "trained", [(0, x)], tmp_path / build, engine=engine_for("cuda"))
        ids = spec.load(tmp_path / build, rows=ROWS, dim=DIM).search(queries, 10, exclude=NOBODY)[1]
        found[build] = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, exact, strict=True)])
    assert found["cagra"] > found["insert"] - 0.01
