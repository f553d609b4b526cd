"""Code sizes over any dimension, and budgets of memory that count all that a loaded index takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.core.specs import kinds, spec_class, spec_from_json
from pipeline.core.types import Floats
from pipeline.index import IndexSpec
from pipeline.index._pq import GPU_M
from pipeline.index.ivfpq import Spec
from tests.contracts.test_indexes import NOBODY, filled, unit


def round_up(dim: int) -> int:
    return -(-dim // 32) * 32


def decaying(n: int, dim: int) -> tuple[Floats, Floats]:
    """Return vectors (n, dim) and queries (60, dim) whose variance decays over directions, as descriptors' does."""
    generator = np.random.default_rng(3)
    x = generator.normal(size=(n + 60, dim)) * 0.97 ** np.arange(dim)
    turn, _ = np.linalg.qr(generator.normal(size=(dim, dim)))
    x = (x @ turn).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x[:n], x[n:]


def recall(spec: IndexSpec, x: Floats, queries: Floats, folder: Path) -> float:
    folder.mkdir()
    _, searcher = filled(spec, x, folder)
    ids = searcher.search(queries, 10, exclude=NOBODY)[1]
    exact = np.argsort(-(queries @ x.T), axis=1, kind="stable")[:, :10]
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, exact, strict=True)]))


@pytest.mark.parametrize("fast_scan", [False, True])
@pytest.mark.parametrize("dim", [127, 131, 286, 300, 500, 509, 510, 899, 2047])
def test_dimensions_of_few_divisors_have_the_code_size_of_a_round_one(dim: int, fast_scan: bool) -> None:
    rows = 200_000
    ours = Spec(fast_scan=fast_scan).resolve(rows=rows, dim=dim)
    theirs = Spec(fast_scan=fast_scan).resolve(rows=rows, dim=round_up(dim))
    assert 0.7 * theirs.row_bytes(dim) <= ours.row_bytes(dim) <= 64 + 8
    assert ours.m is not None
    width = ours.width or dim
    assert dim <= width <= 1.3 * dim
    assert width % ours.m == 0
    assert fast_scan or ours.m in GPU_M


@pytest.mark.parametrize(("dim", "m"), [(16, 8), (32, 8), (64, 16), (128, 32), (512, 64), (1000, 40), (2048, 64)])
def test_round_dimensions_keep_the_code_size_that_they_had(dim: int, m: int) -> None:
    settled = Spec().resolve(rows=200_000, dim=dim)
    assert (settled.m, settled.width) == (m, None)


@pytest.mark.parametrize(("dim", "opq"), [(127, False), (131, False), (37, True)])
def test_padding_costs_no_recall(tmp_path: Path, dim: int, opq: bool) -> None:
    x, queries = decaying(1200, dim)
    room = ((0, 0), (0, round_up(dim) - dim))
    spec = Spec(nlist=8, nprobe=8, opq=opq)
    ours = recall(spec, x, queries, tmp_path / "ours")
    assert ours >= recall(spec, np.pad(x, room), np.pad(queries, room), tmp_path / "round") - 0.03
    assert ours > recall(Spec(nlist=8, nprobe=8, opq=opq, m=1), x, queries, tmp_path / "one") + 0.1


def test_a_code_size_that_is_stated_is_what_comes(tmp_path: Path) -> None:
    x = unit(700, 37)
    resolved, searcher = filled(Spec(m=16, nlist=4), x, tmp_path)
    assert isinstance(resolved, Spec)
    assert (resolved.m, resolved.width) == (16, 48)
    assert searcher.dim == 37
    assert resolved.health(tmp_path / "trained.faiss", x)["quantisation_error"] < 0.1
    assert resolved.row_bytes(37) == 24


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (Spec(nlist=101), "exceeds the 100 rows"),
        (Spec(m=33), "more than the 32 dimensions"),
        (Spec(m=5), "no code size"),
        (Spec(m=8, width=33), "no multiple of m 8"),
        (Spec(m=8, width=24), "no multiple of m 8 from 32 on"),
        (Spec(nprobe=4000), "exceeds"),
    ],
)
def test_settings_that_faiss_would_end_with_are_refused_first(spec: Spec, words: str) -> None:
    with pytest.raises(UserError, match=words):
        spec.resolve(rows=100, dim=32)


SIZED: dict[str, dict[str, object]] = {
    "ivfpq fast scan": {"kind": "ivfpq", "fast_scan": True},
    "ivfpq padded": {"kind": "ivfpq", "m": 16},
    "binary lsh": {"kind": "binary", "code": "lsh", "nbits": 128},
    "binary ivf": {"kind": "binary", "storage": "ivf"},
    "binary hnsw": {"kind": "binary", "storage": "hnsw"},
}


@pytest.mark.parametrize("name", [*kinds("pipeline.index"), *SIZED])
def test_a_file_is_as_large_as_is_counted(name: str, tmp_path: Path) -> None:
    """The file holds what is loaded, but for what fast scan packs on loading."""
    spec = spec_from_json("pipeline.index", SIZED.get(name, {"kind": name}))
    assert isinstance(spec, IndexSpec)
    x = unit(4000, 37 if "padded" in name else 40)
    resolved, _ = filled(spec, x, tmp_path)
    counted = resolved.loaded_bytes(len(x), x.shape[1])
    if isinstance(resolved, Spec) and resolved.fast_scan:
        counted = resolved.model_copy(update={"fast_scan": False, "nbits": 4}).loaded_bytes(len(x), x.shape[1])
    assert counted == pytest.approx((tmp_path / f"filled{spec.suffix}").stat().st_size, rel=0.15)


LOADED = """
import json, sys
from pathlib import Path
from pipeline.core.specs import spec_from_json
spec = spec_from_json("pipeline.index", json.loads(sys.argv[1]))
rows, dim = int(sys.argv[3]), int(sys.argv[4])
resident = lambda: 1024 * int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])
spec.load(Path(sys.argv[5]), rows=10, dim=dim)
before = resident()
searcher = spec.load(Path(sys.argv[2]), rows=rows, dim=dim)
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_loaded_fast_scan_takes_what_is_counted(tmp_path: Path) -> None:
    x = unit(2000, 64)
    spec = Spec(fast_scan=True, nlist=16, opq=False).resolve(rows=2000, dim=64)
    spec.train(x, dim=64, seed=0, path=tmp_path / "trained")
    rows = spec.fill(tmp_path / "trained", ((n, x) for n in range(300)), tmp_path / "filled")
    spec.fill(tmp_path / "trained", [(0, x[:10])], tmp_path / "few")
    arguments = [json.dumps(spec.to_json()), tmp_path / "filled", rows, 64, tmp_path / "few"]
    code = [sys.executable, "-c", LOADED, *map(str, arguments)]
    taken = int(subprocess.run(code, capture_output=True, text=True, check=True).stdout)
    assert spec.loaded_bytes(rows, 64) == pytest.approx(taken, rel=0.15)


@pytest.mark.parametrize("kind", ["ivfpq", "lsh"])
def test_a_budget_is_for_all_that_is_loaded(kind: str) -> None:
    spec = spec_class("pipeline.index", kind)()
    assert isinstance(spec, IndexSpec)
    rows, dim = 100_000, 286
    free = spec.resolve(rows=rows, dim=dim).loaded_bytes(rows, dim)
    for budget in (free, int(0.8 * free), int(0.5 * free)):
        settled = spec.resolve(rows=rows, dim=dim, memory_bytes=budget)
        assert settled.loaded_bytes(rows, dim) <= budget
        assert spec.of_size(settled.row_bytes(dim), rows=rows, dim=dim) == settled


@pytest.mark.parametrize("kind", ["ivfpq", "lsh", "binary", "hnsw", "kdtree"])
def test_a_budget_with_no_room_is_refused(kind: str) -> None:
    spec = spec_class("pipeline.index", kind)()
    assert isinstance(spec, IndexSpec)
    with pytest.raises(UserError, match="raise --index-memory"):
        spec.resolve(rows=10_000, dim=64, memory_bytes=10_000)
    with pytest.raises(UserError, match="with m 64"):
        Spec(m=64).resolve(rows=10_000, dim=64, memory_bytes=300_000)
