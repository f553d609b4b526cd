"""What every index kind promises."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import IntegrityError
from pipeline.core.specs import kinds, spec_class, spec_from_json
from pipeline.core.types import Floats, Ints, row_ids
from pipeline.index import IndexSpec, Searcher

FAMILY = "pipeline.index"
NOBODY = np.zeros(0, np.int64)


def unit(n: int, d: int, seed: int = 0) -> Floats:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(20, d))
    x = centres[generator.integers(20, size=n)] + 0.4 * generator.normal(size=(n, d))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


VARIANTS: dict[str, dict[str, object]] = {
    "binary lsh": {"kind": "binary", "code": "lsh"},
    "binary ivf": {"kind": "binary", "code": "lsh", "storage": "ivf"},
    "binary hash": {"kind": "binary", "code": "lsh", "storage": "hash"},
    "binary hnsw": {"kind": "binary", "code": "lsh", "storage": "hnsw"},
    "ivfpq fast scan": {"kind": "ivfpq", "fast_scan": True},
    "ivfpq fast scan opq": {"kind": "ivfpq", "fast_scan": True, "opq": True},
}
"""Settings that make another structure of a kind; each kind is tried with none first."""


@pytest.fixture(params=[*kinds(FAMILY), *VARIANTS])
def spec(request: pytest.FixtureRequest) -> IndexSpec:
    made = spec_from_json(FAMILY, VARIANTS.get(request.param, {"kind": request.param}))
    assert isinstance(made, IndexSpec)
    return made


def trained(spec: IndexSpec, x: Floats, folder: Path) -> tuple[IndexSpec, Path]:
    resolved = spec.resolve(rows=len(x), dim=x.shape[1])
    path = folder / f"trained{spec.suffix}"
    resolved.train(x[: resolved.sample_rows(len(x))], dim=x.shape[1], seed=0, path=path)
    return resolved, path


def filled(
    spec: IndexSpec, x: Floats, folder: Path, batches: Iterable[tuple[int, Floats]] | None = None
) -> tuple[IndexSpec, Searcher]:
    resolved, path = trained(spec, x, folder)
    out = folder / f"filled{spec.suffix}"
    rows = resolved.fill(path, batches if batches is not None else [(0, x)], out)
    return resolved, resolved.load(out, rows=rows, dim=x.shape[1])


def test_settings_survive_json_and_resolving_settles_them(spec: IndexSpec) -> None:
    resolved = spec.resolve(rows=5000, dim=64)
    assert spec_from_json(FAMILY, resolved.to_json()) == resolved
    assert resolved.resolve(rows=5000, dim=64) == resolved


def test_a_vector_finds_itself_first(spec: IndexSpec, tmp_path: Path) -> None:
    x = unit(600, 64)
    _, searcher = filled(spec, x, tmp_path)
    _, ids = searcher.search(x[:50], 10, exclude=NOBODY)
    assert np.mean([i in row for i, row in enumerate(ids)]) > 0.95


def test_no_queries_have_no_results(spec: IndexSpec, tmp_path: Path) -> None:
    for rows in (1, 90, 3000):
        x = unit(rows, 16)
        _, searcher = filled(spec, x, tmp_path)
        for exclude in (NOBODY, row_ids(0, rows // 2), row_ids(0, rows)):
            scores, ids = searcher.search(x[:0], 5, exclude=exclude)
            assert len(scores) == len(ids) == 0


def test_results_are_ordered_and_scores_estimate_the_cosine(spec: IndexSpec, tmp_path: Path) -> None:
    x = unit(600, 64)
    _, searcher = filled(spec, x, tmp_path)
    scores, ids = searcher.search(x[:20], 15, exclude=NOBODY)
    assert (np.diff(scores, axis=1) <= 0).all()
    exact = np.take_along_axis(x[:20] @ x.T, ids, axis=1)
    assert np.abs(scores - exact).mean() < (1e-5 if spec.exact else 0.25)


def test_positions_and_rows_come_back_as_they_went_in(spec: IndexSpec, tmp_path: Path) -> None:
    x = unit(500, 32)
    batches = [(0, x[:100]), (2, x[100:180]), (2, x[180:300]), (5, x[300:])]
    _, searcher = filled(spec, x, tmp_path, batches)
    expected = np.concatenate([row_ids(0, 100), row_ids(2, 200), row_ids(5, 200)])
    _, ids = searcher.search(x[:1], 500, exclude=NOBODY)
    assert sorted(ids[0].tolist()) == sorted(expected.tolist())
    found = searcher.search(x[250:251], 5, exclude=NOBODY)[1][0].tolist()
    assert expected[250] in found


def test_merged_parts_answer_like_the_whole(spec: IndexSpec, tmp_path: Path) -> None:
    x = unit(900, 32)
    resolved, start = trained(spec, x, tmp_path)
    resolved.fill(start, [(0, x[:300]), (1, x[300:500]), (2, x[500:])], tmp_path / "whole")
    resolved.fill(start, [(0, x[:300]), (1, x[300:500])], tmp_path / "a")
    resolved.fill(start, [(0, x[500:])], tmp_path / "b")
    assert resolved.merge([(tmp_path / "a", 0), (tmp_path / "b", 2)], tmp_path / "merged") == 900
    whole = resolved.load(tmp_path / "whole", rows=900, dim=32).search(x[::50], 30, exclude=NOBODY)
    merged = resolved.load(tmp_path / "merged", rows=900, dim=32).search(x[::50], 30, exclude=NOBODY)
    np.testing.assert_array_equal(whole[1], merged[1])
    np.testing.assert_array_equal(whole[0], merged[0])


def test_excluded_ids_never_come_back_and_k_live_ones_do(spec: IndexSpec, tmp_path: Path) -> None:
    x = unit(400, 32)
    _, searcher = filled(spec, x, tmp_path)
    dead = np.arange(0, 400, 2, dtype=np.int64)
    _, ids = searcher.search(x[:10], 50, exclude=dead)
    assert (ids >= 0).all()
    assert not np.isin(ids, dead).any()


@pytest.mark.parametrize("share", [0.5, 0.05, 0.004])
@pytest.mark.parametrize("where", ["anywhere", "far away"])
def test_what_is_left_of_a_filter_is_found(spec: IndexSpec, share: float, where: str, tmp_path: Path) -> None:
    """Live vectors lie evenly, or are those least like the query, which an index looks at last."""
    x = unit(2000, 32)
    resolved, searcher = filled(spec, x, tmp_path)
    exact = x[:1] @ x.T
    order = np.random.default_rng(3).permutation(2000) if where == "anywhere" else np.argsort(exact[0])
    live = np.sort(order[: int(share * 2000)])
    dead = np.setdiff1d(np.arange(2000), live)
    best = live[np.argsort(-exact[0, live], kind="stable")][:20]
    for _ in range(2):
        scores, ids = searcher.search(x[:3], 20, exclude=dead)
        assert ((ids >= 0).sum(axis=1) == min(20, len(live))).all()
        assert np.isin(ids[ids >= 0], live).all()
        assert (np.diff(scores[:, : len(best)], axis=1) <= 0).all()
    if resolved.exact:
        assert ids[0, : len(best)].tolist() == best.tolist()
    everything, _ = searcher.search(x[:1], 2000, exclude=NOBODY)
    whole, theirs = searcher.search(x[:1], 2000, exclude=dead)
    assert sorted(theirs[theirs >= 0].tolist()) == live.tolist()
    assert np.isin(np.round(whole[theirs >= 0], 4), np.round(everything, 4)).all(), "scores do not depend on filters"


CLUSTERS = 40
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.99)
SMALL: dict[str, dict[str, object]] = {
    "hnsw": {"ef_search": 20, "ef_construction": 48, "m": 12},
    "ivfpq": {"nlist": 64, "nprobe": 6, "m": 12},
    "kdtree": {"checks": 64},
    "binary": {"nlist": 64, "nprobe": 6, "ef_search": 24, "nbits": 24},
}
"""Settings that look at a part of some thousand vectors only, as the defaults do of millions."""


@cache
def clusters() -> tuple[Floats, Ints, Floats, Ints]:
    """Return vectors (4000, 24) in overlapping clusters and queries (1000, 24), each with the cluster of each."""
    generator = np.random.default_rng(5)
    label = generator.integers(CLUSTERS, size=5000)
    x = generator.normal(size=(CLUSTERS, 24))[label] + 0.35 * generator.normal(size=(5000, 24))
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    x = x.astype(np.float32)
    return x[:4000], label[:4000], x[4000:], label[4000:]


def pattern(where: str, share: float) -> tuple[Ints, Floats]:
    """Return the live rows, and queries: of any vectors, or of whole clusters with queries from the other clusters."""
    x, label, queries, from_cluster = clusters()
    generator = np.random.default_rng(6)
    if where == "anywhere":
        return np.sort(generator.permutation(len(x))[: int(share * len(x))]), queries[:20]
    order = generator.permutation(CLUSTERS)
    held = np.cumsum(np.bincount(label, minlength=CLUSTERS)[order])
    count = min(CLUSTERS - 1, 1 + int(np.searchsorted(held, share * len(x))))
    chosen = order[:count]
    return np.flatnonzero(np.isin(label, chosen)), queries[~np.isin(from_cluster, chosen)][:20]


def recall_of(ids: Ints, x: Floats, queries: Floats, live: Ints, *, reranked: bool = False) -> float:
    """Return recall@10 over the live rows, by a slow exact scan; in the order of the scores or re-ranked exactly."""
    shares = []
    for query, row in zip(queries, ids, strict=True):
        best = live[np.argsort(-(x[live] @ query), kind="stable")[:10]]
        found = row[row >= 0]
        found = found[np.argsort(-(x[found] @ query), kind="stable")] if reranked else found
        shares.append(len(set(found[:10].tolist()) & set(best.tolist())) / len(best))
    return float(np.mean(shares))


def test_exclusions_cost_no_recall_against_an_index_of_the_live_rows_alone(spec: IndexSpec, tmp_path: Path) -> None:
    """Of the same trained part at every selectivity; and trained on these rows alone, with candidates re-ranked."""
    x = clusters()[0]
    small = SMALL.get(spec.kind, {}) | ({"nbits": 256} if getattr(spec, "code", "") == "lsh" else {})
    spec = spec.model_copy(update=small)
    resolved, searcher = filled(spec, x, tmp_path)
    start = tmp_path / f"trained{spec.suffix}"
    for number, (where, share) in enumerate(product(("anywhere", "clusters that no query is from"), SHARES)):
        live, queries = pattern(where, share)
        ids = searcher.search(queries, 10, exclude=np.setdiff1d(np.arange(len(x)), live))[1]
        assert (ids >= 0).all()
        # A file of its own each time: faiss may still be reading ahead in the one before, which is mapped.
        path = tmp_path / f"alone{number}"
        resolved.fill(start, [(0, x[live])], path)
        alone = resolved.load(path, rows=len(live), dim=x.shape[1])
        theirs = live[alone.search(queries, 10, exclude=NOBODY)[1]]
        least = recall_of(theirs, x, queries, live) - 0.05
        assert recall_of(ids, x, queries, live) >= least, (where, share)
    live, queries = pattern("clusters that no query is from", 0.25)
    (tmp_path / "anew").mkdir()
    _, anew = filled(spec.model_copy(update={"nlist": 16} if "nlist" in small else {}), x[live], tmp_path / "anew")
    theirs = live[anew.search(queries, 60, exclude=NOBODY)[1]]
    ids = searcher.search(queries, 60, exclude=np.setdiff1d(np.arange(len(x)), live))[1]
    least = recall_of(theirs, x, queries, live, reranked=True) - 0.05
    assert recall_of(ids, x, queries, live, reranked=True) >= least


def test_asking_for_more_than_there_is_gives_what_there_is(spec: IndexSpec, tmp_path: Path) -> None:
    x = unit(30, 16)
    _, searcher = filled(spec, x, tmp_path)
    _, ids = searcher.search(x[:2], 100, exclude=NOBODY)
    assert [sorted(row[row >= 0].tolist()) for row in ids] == [list(range(30))] * 2


@pytest.mark.parametrize(("rows", "dim"), [(1, 8), (2, 7), (3, 1), (50, 33), (300, 100)])
def test_small_and_odd_collections_are_indexed(spec: IndexSpec, rows: int, dim: int, tmp_path: Path) -> None:
    x = unit(rows, dim)
    _, searcher = filled(spec, x, tmp_path)
    assert searcher.search(x[:1], 1, exclude=NOBODY)[1][0, 0] >= 0


def test_training_is_a_function_of_its_input(spec: IndexSpec, tmp_path: Path) -> None:
    x = unit(700, 32)
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    assert trained(spec, x, tmp_path / "1")[1].read_bytes() == trained(spec, x, tmp_path / "2")[1].read_bytes()


def test_a_file_that_is_not_what_the_manifest_says_is_refused(spec: IndexSpec, tmp_path: Path) -> None:
    x = unit(100, 16)
    resolved, path = trained(spec, x, tmp_path)
    out = tmp_path / "filled"
    resolved.fill(path, [(0, x)], out)
    for rows, dim in ((99, 16), (100, 8)):
        with pytest.raises(IntegrityError):
            resolved.load(out, rows=rows, dim=dim)
    other = next(kind for kind in kinds(FAMILY) if kind != spec.kind)
    foreign = spec_class(FAMILY, other)()
    assert isinstance(foreign, IndexSpec)
    with pytest.raises(IntegrityError):
        foreign.load(out, rows=100, dim=16)
    out.write_bytes(out.read_bytes()[:200])
    with pytest.raises(IntegrityError):
        resolved.load(out, rows=100, dim=16)
    out.write_bytes(b"nothing")
    with pytest.raises(IntegrityError):
        resolved.load(out, rows=100, dim=16)


def test_more_effort_finds_no_less_and_all_of_it_finds_everything(spec: IndexSpec, tmp_path: Path) -> None:
    if not spec.effort:
        pytest.skip("looks at everything, or takes its effort from its settings")
    x = unit(1200, 32)
    _, searcher = filled(spec, x, tmp_path)
    exact = np.argsort(-(x[::40] @ x.T), axis=1, kind="stable")[:, :10]

    def recall(effort: int | None) -> float:
        _, ids = searcher.search(x[::40], 50, exclude=NOBODY, effort=effort)
        return float(np.mean([len(set(one) & set(other)) / 10 for one, other in zip(ids, exact, strict=True)]))

    assert recall(1) <= recall(None) + 0.02 <= recall(4096) + 0.04
    assert recall(4096) > 0.9


def test_lists_hold_every_vector_or_there_are_none(spec: IndexSpec, tmp_path: Path) -> None:
    x = unit(600, 64)
    resolved, _ = filled(spec, x, tmp_path)
    sizes = resolved.list_sizes(tmp_path / f"filled{spec.suffix}")
    has_lists = spec.kind == "ivfpq" or getattr(spec, "storage", "") == "ivf"
    assert len(sizes) == (getattr(resolved, "nlist") if has_lists else 0)  # noqa: B009 - only some kinds have it
    assert sizes.sum() == (len(x) if has_lists else 0)
