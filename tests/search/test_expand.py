from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.search.expand import augment, expand
from pipeline.search.merge import Candidates, located, ranked


def test_expansion_reproduces_the_reference_implementation(golden_data: Path) -> None:
    golden = np.load(golden_data / "expansion_multiscale.npz", allow_pickle=False)
    db, queries = golden["db"].astype(np.float32), golden["q"].astype(np.float32)
    checked = 0
    for name in golden.files:
        if not name.startswith(("aqe_", "adba_")):
            continue
        k, alpha = (int(part[1:]) for part in name.split("_")[1:])
        if name.startswith("aqe_"):
            nearest = np.argsort(-(queries @ db.T), axis=1)[:, :k]
            ours = expand(queries, db[nearest], alpha)
        else:
            ours = augment(db, k, alpha)
        np.testing.assert_allclose(ours, golden[name], rtol=1e-4, atol=1e-6, err_msg=name)
        checked += 1
    assert checked == 8


def test_a_neighbour_on_the_other_side_adds_nothing() -> None:
    query = np.array([[1.0, 0.0]], np.float32)
    opposite = np.array([[[-1.0, 0.0]]], np.float32)
    np.testing.assert_array_equal(expand(query, opposite, 3.0), query)


def candidates(score: list[float], file: list[int], row: list[int]) -> Candidates:
    return Candidates(score=np.array(score, np.float32), file=np.array(file), row=np.array(row))


def test_parts_are_merged_by_score_and_ties_by_place() -> None:
    merged = ranked([candidates([0.9, 0.5], [1, 1], [0, 3]), candidates([0.9, 0.5], [0, 1], [7, 2])])
    assert merged.file.tolist() == [0, 1, 1, 1]
    assert merged.row.tolist() == [7, 0, 2, 3]


def test_missing_results_are_left_out() -> None:
    ids = np.array([(1 << 32) + 5, -1], dtype=np.int64)
    found = located(np.array([0.5, -np.inf], np.float32), ids, np.array([10, 20]))
    assert (found.file.tolist(), found.row.tolist()) == ([20], [5])


def test_an_image_is_no_neighbour_of_its_own_where_fewer_than_k_are_similar() -> None:
    x = np.array([[1, 0, 0], [0.8, 0.6, 0], [-0.6, 0.0, 0.8], [0, -1, 0]], np.float32)
    for k in (1, 2, 3, 4, 9):
        for alpha in (0.0, 1.0, 3.0):
            slow = []
            for i, one in enumerate(x):
                others = sorted((float(-(one @ x[j])), j) for j in range(len(x)) if j != i)[:k]
                summed = one + sum(np.float32((-s) ** alpha) * x[j] for s, j in others if s < 0)
                slow.append(summed / np.linalg.norm(summed))
            np.testing.assert_allclose(augment(x, k, alpha), np.stack(slow), atol=1e-6)
    np.testing.assert_array_equal(augment(x[:1], 5, 3.0), x[:1])
