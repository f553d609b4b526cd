"""Binary codes: the same distances by every storage; and KD-trees that are whole before anything follows them."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.core.errors import IntegrityError, UserError
from pipeline.core.types import Floats
from pipeline.index import _binary
from pipeline.index.binary import Spec
from pipeline.index.ivfpq import Spec as IvfPqSpec
from pipeline.index.kdtree import Spec as KdTreeSpec
from pipeline.index.lsh import Spec as LshSpec
from tests.contracts.test_indexes import NOBODY, filled, trained, unit
from tests.index.test_lsh import correlated, recall


def signs(x: Floats) -> np.ndarray:
    return x >= 0


def test_flat_codes_rank_by_the_hamming_distance_of_signs(tmp_path: Path) -> None:
    x = unit(300, 40)
    _, searcher = filled(Spec(), x, tmp_path)
    scores, ids = searcher.search(x[:5], 300, exclude=NOBODY)
    distance = (signs(x[:5])[:, None] != signs(x)[None]).sum(axis=2)
    expected = np.cos(np.pi * np.sort(distance, axis=1) / 40)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_array_equal(np.take_along_axis(distance, ids, axis=1), np.sort(distance, axis=1))


@pytest.mark.parametrize("storage", ["ivf", "hash", "hnsw"])
def test_other_storages_find_what_a_scan_finds(tmp_path: Path, storage: str) -> None:
    x = unit(2000, 64)
    found = []
    for name in ("flat", storage):
        (tmp_path / name).mkdir()
        spec = Spec.model_validate({"code": "lsh", "storage": name})
        found.append(filled(spec, x, tmp_path / name)[1].search(x[::100], 10, exclude=NOBODY))
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(found[0][1], found[1][1], strict=True)]
    assert np.mean(shared) > 0.7
    assert (found[0][1][:, 0] == found[1][1][:, 0]).mean() > 0.9


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="multiple of 8"):
        Spec(nbits=12).resolve(rows=10, dim=64)
    with pytest.raises(UserError, match="more than"):
        Spec(nbits=128).resolve(rows=10, dim=64)
    with pytest.raises(ValueError, match="4 bits"):
        IvfPqSpec(fast_scan=True, nbits=8)
    assert IvfPqSpec(fast_scan=True).resolve(rows=1000, dim=64).row_bytes(64) == 24


def test_sampled_bits_find_about_as_much_as_random_ones(tmp_path: Path) -> None:
    x, queries = correlated(3000, 0), correlated(60, 1)
    sampled = recall(LshSpec(nbits=64, rotation="sample"), x, queries, tmp_path / "sample")
    assert sampled > 0.8 * recall(LshSpec(nbits=64), x, queries, tmp_path / "random")


def test_fast_scan_finds_what_four_bit_codes_find(tmp_path: Path) -> None:
    x, queries = correlated(4000, 0), correlated(60, 1)
    fast = recall(IvfPqSpec(fast_scan=True, m=32, nprobe=8), x, queries, tmp_path / "fast")
    plain = recall(IvfPqSpec(nbits=4, m=32, nprobe=8), x, queries, tmp_path / "plain")
    assert abs(fast - plain) < 0.02
    assert plain > 0.8


def test_equal_forests_are_equal_files_and_find_neighbours(tmp_path: Path) -> None:
    x, queries = correlated(3000, 0)[:, :24], correlated(50, 1)[:, :24]
    x, queries = (np.ascontiguousarray(v / np.linalg.norm(v, axis=1, keepdims=True)) for v in (x, queries))
    resolved, start = trained(KdTreeSpec(), x, tmp_path)
    for name in ("a", "b"):
        resolved.fill(start, [(0, x)], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    scores, ids = resolved.load(tmp_path / "a", rows=3000, dim=24).search(queries, 10, exclude=NOBODY)
    truth = np.argsort(-(queries @ x.T), axis=1)[:, :10]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth, strict=True)]) > 0.9
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ x.T, ids, axis=1), atol=1e-5)


@pytest.mark.parametrize("where", ["shorter", "dimension", "leaf", "shape"])
def test_trees_that_are_not_whole_are_refused_before_they_are_followed(tmp_path: Path, where: str) -> None:
    x = unit(200, 16)
    resolved, start = trained(KdTreeSpec(trees=1), x, tmp_path)
    path = tmp_path / "forest"
    resolved.fill(start, [(0, x)], path)
    tensors = load_file(path)
    forest = tensors["forest"].copy()
    nodes = forest[64:].reshape(-1, 24)
    if where == "shorter":
        forest = forest[:-24]
    elif where == "dimension":
        nodes[0, :4] = np.frombuffer(np.int32(16).tobytes(), np.uint8)
    elif where == "leaf":
        leaf = np.flatnonzero(~nodes[:, 8:].any(axis=1))[0]
        nodes[leaf, :4] = np.frombuffer(np.int32(-1).tobytes(), np.uint8)
    else:
        nodes[-1, 8], nodes[-1, 16] = 1, 1
    save_file({**tensors, "forest": forest}, path)
    with pytest.raises(IntegrityError, match="not whole"):
        resolved.load(path, rows=200, dim=16)


def bits_that_split(codes: np.ndarray) -> float:
    """Return the share of bits that 5 % to 95 % of codes (n, bytes) have."""
    shares = np.unpackbits(codes, axis=1).mean(axis=0)
    return float(((shares >= 0.05) & (shares <= 0.95)).mean())


def positive(n: int, seed: int = 0) -> Floats:
    """Unit vectors that are never negative and mostly alike, as GeM descriptors are; some coordinates mostly zero."""
    generator = np.random.default_rng(seed)
    x = 1 + 0.3 * np.abs(generator.normal(size=(n, 64)))
    x[:, :16] *= generator.random((n, 16)) < 0.3
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def codes_in(spec: Spec | LshSpec, x: Floats, folder: Path) -> np.ndarray:
    resolved, path = trained(spec, x, folder)
    out = folder / f"filled{spec.suffix}"
    resolved.fill(path, [(0, x)], out)
    if isinstance(spec, Spec):
        return _binary.codes_of(faiss.deserialize_index_binary(load_file(out)["index"]))
    whole = faiss.read_index(str(out))
    inner = faiss.downcast_index(whole.index)
    codes = faiss.downcast_index(inner.index) if isinstance(inner, faiss.IndexPreTransform) else inner
    return np.asarray(faiss.vector_to_array(codes.codes)).reshape(len(x), -1)


@pytest.mark.parametrize(
    "spec",
    [
        Spec(thresholds=True),
        Spec(thresholds=True, code="lsh"),
        Spec(thresholds=True, storage="ivf"),
        Spec(code="itq"),
        LshSpec(),
        LshSpec(rotation="sample"),
        LshSpec(rotation="itq"),
    ],
)
def test_bits_of_descriptors_that_are_never_negative_split_them(spec: Spec | LshSpec, tmp_path: Path) -> None:
    assert bits_that_split(codes_in(spec, positive(2000), tmp_path)) > 0.95


def test_thresholds_leave_bits_alone_that_split_already(tmp_path: Path) -> None:
    """Learned hash codes are the signs of their vectors, also where most of a bit are negative, or stored as signs."""
    generator = np.random.default_rng(0)
    x = np.where(generator.random((500, 64)) < np.linspace(0.06, 0.94, 64), 1, -1) / 8
    for vectors in (x.astype(np.float32), unit(500, 64)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        expected = np.packbits(vectors >= 0, axis=1, bitorder="little")
        np.testing.assert_array_equal(codes_in(Spec(thresholds=True), vectors, folder), expected)


@pytest.mark.parametrize("spec", [Spec(), LshSpec(rotation="sample", thresholds=False)])
def test_one_code_for_all_is_refused(spec: Spec | LshSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are all alike; set thresholds"):
        trained(spec, positive(200) + 0.01, tmp_path)


def test_new_recipes_have_thresholds_and_old_ones_do_not() -> None:
    assert Spec.initial == {"thresholds": True}
    assert not Spec().thresholds
