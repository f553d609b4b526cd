"""The engine that computes on GPUs gives what faiss gives: shown with torch on the CPU, and with a faiss that stands in
for one that has CAGRA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from pipeline.core.errors import UserError
from pipeline.core.types import Floats, Ints, row_ids
from pipeline.index import Batch, IndexSpec, Layout
from pipeline.index._engine import (
    COMPUTE_BOUND,
    GPU_FROM,
    FaissEngine,
    TorchEngine,
    engine_for,
    worth_filling,
    worth_training,
)
from pipeline.index.hnsw import Spec as HnswSpec
from pipeline.index.ivfpq import Spec
from tests.contracts.test_indexes import NOBODY, unit

TORCH = TorchEngine(torch.device("cpu"))
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"m": 4, "nbits": 8},
    "padded": {"m": 3, "nbits": 6},
    "padded and rotated": {"m": 3, "nbits": 4, "opq": True},
    "fast scan": {"m": 8, "fast_scan": True},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads would wait for one another longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


def close(n: int, dim: int, seed: int = 0) -> Floats:
    """Return unit vectors (n, dim) whose variance decays over directions."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, dim)) * 0.9 ** np.arange(dim)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def entries(path: Path) -> list[tuple[Ints, Floats, Floats]]:
    """Return what each list of a filled file holds: ids (n,), codes (n, bytes) and the vectors (n, width) they mean."""
    index = faiss.read_index(str(path))
    ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
    found = []
    for number in range(ivf.nlist):
        size, prefix = ivf.get_list_size(number), number.to_bytes(ivf.coarse_code_size(), "little")
        ids = faiss.rev_swig_ptr(ivf.invlists.get_ids(number), size) if size else np.zeros(0, np.int64)
        codes = np.zeros((size, ivf.code_size), np.uint8)
        if size:
            codes[:] = faiss.rev_swig_ptr(ivf.invlists.get_codes(number), codes.size).reshape(codes.shape)
        whole = np.concatenate([np.tile(np.frombuffer(prefix, np.uint8), (size, 1)), codes], axis=1)
        found.append((ids.copy(), codes, ivf.sa_decode(whole) if size else np.zeros((0, ivf.d), np.float32)))
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_torch_fills_what_faiss_fills(name: str, tmp_path: Path) -> None:
    """The same lists in the same order; codes differ where rounding decides between two that are equally near."""
    x = unit(2000, 16)
    x[7] = x[8]
    spec = Spec(nlist=300, **SETTINGS[name]).resolve(rows=2000, dim=16)
    spec.train(unit(1000, 16, seed=1), dim=16, seed=0, path=tmp_path / "trained")
    batches: list[Batch] = [(0, x[:700]), (row_ids(4, 800)[::-1].copy(), x[700:1500]), (7, x[1500:])]
    for file, engine in (("faiss", None), ("torch", TORCH)):
        assert spec.fill(tmp_path / "trained", batches, tmp_path / file, engine=engine) == 2000
    other = 0
    for theirs, ours in zip(entries(tmp_path / "faiss"), entries(tmp_path / "torch"), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        differ = (ours[1] != theirs[1]).any(axis=1)
        other += int(differ.sum())
        assert np.abs(ours[2] - theirs[2])[~differ].max(initial=0) == 0
    assert other <= 3


@pytest.mark.parametrize("name", SETTINGS)
def test_torch_trains_no_worse_than_faiss(name: str, tmp_path: Path) -> None:
    x, queries = close(2000, 16), close(100, 16, seed=1)
    spec = Spec(nlist=20, nprobe=6, **SETTINGS[name]).resolve(rows=2000, dim=16)
    exact = np.argsort(-(queries @ x.T), axis=1)[:, :10]
    health, recall = {}, {}
    for file, engine in (("faiss", None), ("torch", TORCH)):
        spec.train(x, dim=16, seed=0, path=tmp_path / file, engine=engine)
        health[file] = spec.health(tmp_path / file, x)
        spec.fill(tmp_path / file, [(0, x)], tmp_path / "filled")
        found = spec.load(tmp_path / "filled", rows=2000, dim=16).search(queries, 10, exclude=NOBODY)[1]
        recall[file] = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])
    assert health["torch"]["quantisation_error"] <= 1.05 * health["faiss"]["quantisation_error"]
    assert health["torch"]["imbalance"] <= 1.15 * health["faiss"]["imbalance"]
    assert health["torch"]["empty_lists"] == 0
    assert recall["torch"] >= recall["faiss"] - 0.04


def test_vectors_that_are_not_finite_are_counted_and_in_no_list_as_with_faiss(tmp_path: Path) -> None:
    x = unit(200, 16)
    spec = Spec(nlist=5, m=4, nbits=4).resolve(rows=200, dim=16)
    spec.train(x, dim=16, seed=0, path=tmp_path / "trained")
    x[3], x[9, 2] = np.nan, np.nan
    x.flags.writeable = False
    for file, engine in (("faiss", None), ("torch", TORCH)):
        assert spec.fill(tmp_path / "trained", [(0, x[:100]), (1, x[100:])], tmp_path / file, engine=engine) == 200
    ids = [[mine[0].tolist() for mine in entries(tmp_path / file)] for file in ("faiss", "torch")]
    assert ids[0] == ids[1]
    assert sum(map(len, ids[1])) == 198
    assert spec.load(tmp_path / "torch", rows=200, dim=16).rows == 200


def test_torch_trains_the_same_whatever_the_number_of_threads(tmp_path: Path) -> None:
    x = unit(2000, 16)
    spec = Spec(nlist=50, m=2, nbits=4).resolve(rows=2000, dim=16)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        spec.train(x, dim=16, seed=3, path=tmp_path / f"{threads}", engine=TORCH)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    spec.train(x, dim=16, seed=4, path=tmp_path / "other", engine=TORCH)
    assert (tmp_path / "1").read_bytes() != (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("at_once", [1, 1000])
def test_ties_go_to_the_first_list_whatever_is_held_at_once(at_once: int) -> None:
    lists = unit(20, 8)
    lists[11] = lists[4]
    layout = Layout(dim=8, width=8, nlist=20, m=2, bits=4, opq=False)
    index = FaissEngine().train(np.concatenate([lists] * 2), layout, 0)
    index.quantizer.reset()
    index.quantizer.add(lists)
    codes = index.sa_encode(lists)
    engine = TorchEngine(torch.device("cpu"), at_once=at_once)
    engine.adder(index)(lists, np.arange(20))
    assert codes[11, 0] == 4
    sizes = [index.get_list_size(number) for number in range(20)]
    assert sizes == np.bincount(codes[:, 0], minlength=20).tolist()
    assert sizes[4] == 2


@pytest.mark.parametrize("rows", [1, 5, 60])
def test_collections_of_equal_or_few_vectors_are_trained(rows: int, tmp_path: Path) -> None:
    """k-means has empty clusters, which are split from points that are all alike."""
    x = np.repeat(unit(max(1, rows // 5), 16), 5, axis=0)[:rows]
    spec = Spec(nlist=min(rows, 30), nbits=4).resolve(rows=rows, dim=16)
    spec.train(x, dim=16, seed=0, path=tmp_path / "trained", engine=TORCH)
    spec.fill(tmp_path / "trained", [(0, x)], tmp_path / "filled", engine=TORCH)
    scores, ids = spec.load(tmp_path / "filled", rows=rows, dim=16).search(x[:1], 1, exclude=NOBODY)
    assert ids[0, 0] >= 0
    assert scores[0, 0] == pytest.approx(1, abs=0.05)


def test_a_gpu_is_asked_for_from_a_size_on_that_the_counts_tell() -> None:
    small, large = (Spec().resolve(rows=rows, dim=128) for rows in (10_000, 10**6))
    works = [spec.training_work(spec.sample_rows(rows), 128) for spec, rows in ((small, 10_000), (large, 10**6))]
    assert works[1] > 10 * works[0]
    lists = large.lists(10**6)
    assert large.filling_work(lists, 128) == (lists + 256) * 128 > COMPUTE_BOUND
    assert [worth_training("auto", work) for work in (0, 1e9, GPU_FROM)] == [False, False, True]
    assert [worth_training("cuda", work) for work in (0, 1e9, GPU_FROM)] == [False, True, True]
    assert not worth_training("cpu", 1e15)
    assert [worth_filling("auto", work, 10**7) for work in (0, 1e5, 1e6)] == [False, False, True]
    assert not worth_filling("auto", 1e6, 1000)
    assert worth_filling("cuda", 1e5, 1)
    assert not worth_filling("cuda", 0, 10**9)
    assert not worth_filling("cpu", 1e9, 10**9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_cuda_is_refused_and_auto_says_which_gpu_it_cannot_use(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"--device cuda: .*install"):
        engine_for("cuda")
    for visible in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert engine_for("auto").device == "cpu"
    assert not caplog.records
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert engine_for("auto").device.startswith("cpu: GPU 1 is there, but torch")
    assert "computes on the CPU" in caplog.text
    assert engine_for("cpu").device == "cpu"


class CagraOnTheCpu:
    """As much of a faiss with cuVS as is used; the graph is one that faiss builds on the CPU."""

    METRIC_INNER_PRODUCT = faiss.METRIC_INNER_PRODUCT
    IndexHNSWCagra = faiss.IndexHNSWCagra
    GpuIndexCagraConfig = SimpleNamespace

    def __init__(self, gpus: int = 1) -> None:
        self.gpus, self.configs = gpus, list[Any]()

    def get_num_gpus(self) -> int:
        return self.gpus

    def StandardGpuResources(self) -> object:  # noqa: N802
        return object()

    def GpuIndexCagra(self, resources: object, dim: int, metric: int, config: Any) -> Any:  # noqa: N802
        self.configs.append(config)
        graph = faiss.IndexHNSWFlat(dim, config.graph_degree // 2, metric)

        def copy(target: Any) -> None:
            assert not target.base_level_only
            target.hnsw = graph.hnsw

        return SimpleNamespace(train=graph.add, copyTo=copy)


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_a_graph_of_cagra_is_searched_as_one_of_our_own(storage: Any, tmp_path: Path) -> None:
    x = close(1500, 24)
    library = CagraOnTheCpu()
    engine = TorchEngine(torch.device("cpu"), library=library)
    exact = np.argsort(-(x[::30] @ x.T), axis=1)[:, :10]
    for build in ("insert", "cagra"):
        spec: IndexSpec = HnswSpec(m=8, ef_search=40, storage=storage, build=build)
        spec.train(x[:0], dim=24, seed=0, path=tmp_path / "trained")
        assert spec.fill(tmp_path / "trained", [(0, x[:1000]), (3, x[1000:])], tmp_path / build, engine=engine) == 1500
        searcher = spec.load(tmp_path / build, rows=1500, dim=24)
        scores, ids = searcher.search(x[::30], 10, exclude=NOBODY)
        rows = np.where(ids >> 32 == 3, (ids & 0xFFFFFFFF) + 1000, ids)
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, exact, strict=True)]) > 0.95
        np.testing.assert_allclose(scores, np.take_along_axis(x[::30] @ x.T, rows, axis=1), atol=2e-3)
        left = searcher.search(x[:1], 20, exclude=np.sort(ids[0]))[1]
        assert not np.isin(left, ids[0]).any()
    assert [config.graph_degree for config in library.configs] == [16]
    parts = [(tmp_path / "cagra", 0), (tmp_path / "cagra", 5)]
    assert spec.merge(parts, tmp_path / "merged") == 3000
    merged = spec.load(tmp_path / "merged", rows=3000, dim=24)
    assert set(merged.search(x[:1], 2, exclude=NOBODY)[1][0].tolist()) == {0, 5 << 32}


def test_cagra_is_refused_without_cuvs_and_without_a_gpu(tmp_path: Path) -> None:
    spec = HnswSpec(build="cagra")
    spec.train(unit(0, 8), dim=8, seed=0, path=tmp_path / "trained")
    device = torch.device("cpu")
    for engine, words in (
        (None, "needs a GPU"),
        (TorchEngine(device, library=SimpleNamespace()), "install faiss-gpu-cuvs"),
        (TorchEngine(device, library=CagraOnTheCpu(gpus=0)), "faiss sees none"),
    ):
        with pytest.raises(UserError, match=f"hnsw build cagra: .*{words}"):
            spec.fill(tmp_path / "trained", [(0, unit(100, 8))], tmp_path / "filled", engine=engine)
