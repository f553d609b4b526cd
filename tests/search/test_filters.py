"""Queries with a condition: what matches is found as if nothing else were there, by any index and by comparing all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.compact import CompactOptions, compact
from jobs.delete import EditOptions, delete
from jobs.recipe import RecipeOptions
from pipeline.core.errors import UserError
from pipeline.core.local import LocalStore
from pipeline.core.specs import kinds
from pipeline.core.types import Floats
from pipeline.publish.catalog import Catalog
from pipeline.run.inline import InlineCrew
from pipeline.search import filters as module
from pipeline.search.augment import Augmented
from pipeline.search.engine import Hit, SearchIndex, SearchOptions
from pipeline.search.filters import Filters, Matches
from pipeline.search.merge import Candidates
from pipeline.search.shares import SharedParts, share_tasks
from tests.builders import run
from tests.integration.test_local import quiet
from tests.search.test_filters_kept import Counting

ROWS, DIM = 3000, 16
LICENSES = ("cc0", "by", "nc", None)
SETTINGS = {"binary": 'code = "lsh"\nnbits = 256\n'}
METADATA = 'metadata = { license = "string", year = "int64" }'
WIDE = "year >= 1000 and year < 2500"
"""Half of the images; `few = 0` leaves even a handful of matches to the index."""
CONDITIONS = (WIDE, "license = 'cc0'", "license is null and year < 100", "year in (7, 8, 2999)", "not (license = 'by')")


def vectors(count: int, seed: int) -> Floats:
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(30, DIM))
    x = centres[generator.integers(30, size=count)] + 0.5 * generator.normal(size=(count, DIM))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def table(start: int, count: int, seed: int = 0) -> pa.Table:
    numbers = np.arange(start, start + count)
    return pa.table(
        {
            "id": [f"{number:05d}" for number in numbers],
            "vector": pa.array(vectors(count, seed + start).tolist(), pa.list_(pa.float32())),
            "license": [LICENSES[number % 4] for number in numbers],
            "year": numbers,
        }
    )


def write(folder: Path, name: str, start: int, count: int) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(table(start, count), folder / name)


def recipe(folder: Path, indexes: tuple[str, ...]) -> RecipeOptions:
    path = folder / "recipe.toml"
    path.write_text(
        f'dtype = "float32"\n[source]\nkey_column = "id"\n{METADATA}\n[extractor]\nkind = "precomputed"\ndim = {DIM}\n'
        + "".join(f"[indexes.{kind}]\n{SETTINGS.get(kind, '')}" for kind in indexes)
    )
    return RecipeOptions(recipe=str(path))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files, a tenth of their images deleted."""
    folder = tmp_path_factory.mktemp("filters")
    for number in range(3):
        write(folder / "src", f"{number}.parquet", number * ROWS // 3, ROWS // 3)
    options = recipe(folder, tuple(kinds("pipeline.index")))
    run(folder / "src", folder / "root", recipe=options, rows_per_index_shard=ROWS // 2)
    dead = tuple(f"{number // 1000}.parquet/{number:05d}" for number in range(5, ROWS, 10))
    delete(EditOptions(root=str(folder / "root"), keys=dead))
    return folder / "root"


@pytest.fixture(scope="module")
def index(root: Path) -> Iterator[SearchIndex]:
    with SearchIndex.open(str(root)) as opened:
        yield opened


def takes(where: str, year: int, license_: str | None) -> bool:
    return {
        WIDE: 1000 <= year < 2500,
        "license = 'cc0'": license_ == "cc0",
        "license is null and year < 100": license_ is None and year < 100,
        "year in (7, 8, 2999)": year in (7, 8, 2999),
        "not (license = 'by')": license_ not in ("by", None),
    }[where]


def expected(index: SearchIndex, where: str, queries: Floats, k: int) -> list[list[str]]:
    """The k best keys by comparing everything that matches."""
    live = index.live()
    hits = index.hits(live)
    assert all(hit.metadata is not None for hit in hits)
    years = [int(hit.key[-5:]) for hit in hits]
    right = np.array([takes(where, year, LICENSES[year % 4]) for year in years])
    scores = np.where(right[None], queries @ index.stored.vectors(live.file, live.row).T, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, int(right.sum()))]
    return [[hits[place].key for place in row] for row in order.tolist()]


def keys(found: list[list[Hit]]) -> list[list[str]]:
    return [[hit.key for hit in hits] for hits in found]


@pytest.mark.parametrize("where", CONDITIONS)
def test_few_matches_are_compared_one_by_one(index: SearchIndex, where: str) -> None:
    queries = vectors(20, 77)
    truth = expected(index, where, queries, 10)
    for kind in index.kinds:
        found = index.search(queries, SearchOptions(where=where, index=kind))
        assert keys(found) == truth
        for hits in found:
            for hit in hits:
                number = int(hit.key[-5:])
                assert hit.metadata == {"license": LICENSES[number % 4], "year": number}


@pytest.mark.parametrize("where", CONDITIONS)
@pytest.mark.parametrize("kind", kinds("pipeline.index"))
def test_every_index_finds_what_matches(index: SearchIndex, kind: str, where: str) -> None:
    queries = vectors(20, 77)
    truth = expected(index, where, queries, 10)
    found = keys(index.search(queries, SearchOptions(where=where, index=kind, few=0)))
    assert [len(row) for row in found] == [len(row) for row in truth], "as many as there are"
    assert all(takes(where, int(key[-5:]), LICENSES[int(key[-5:]) % 4]) for row in found for key in row)
    assert not any(int(key[-5:]) % 10 == 5 for row in found for key in row), "what was deleted"
    shared = np.mean([len(set(one) & set(other)) / len(other) for one, other in zip(found, truth, strict=True)])
    assert shared == 1.0 if index.spec(kind).exact else shared > 0.9
    again = keys(index.search(queries, SearchOptions(where=where, index=kind, few=0)))
    assert again == found


def test_more_are_asked_for_than_there_are(index: SearchIndex) -> None:
    for kind in index.kinds:
        found = index.search(vectors(2, 3), SearchOptions(where="year < 40", index=kind, k=500, few=0))
        assert [sorted(int(hit.key[-5:]) for hit in hits) for hits in found] == [
            [number for number in range(40) if number % 10 != 5]
        ] * 2


def test_nothing_matches(index: SearchIndex) -> None:
    for few in (0, None):
        options = SearchOptions(where="year < 0", few=few)
        assert index.search(vectors(3, 3), options) == [[], [], []]
        assert index.search(vectors(3, 3), replace(options, expand=(3, 2.0))) == [[], [], []]


def test_built_in_columns_and_other_conditions(index: SearchIndex) -> None:
    one = index.search(vectors(1, 3), SearchOptions(where="key like '2.parquet/%' and width = height", k=ROWS))
    assert {hit.key[0] for hit in one[0]} == {"2"}
    assert len(one[0]) == 900
    assert len(index.search(vectors(1, 3), SearchOptions(where="1 = 1", k=ROWS))[0]) == 2700
    with pytest.raises(UserError, match=r"licence.*license \(string\), year \(int64\)"):
        index.search(vectors(1, 3), SearchOptions(where="licence = 'cc0'"))


def test_a_query_expands_by_what_matches(index: SearchIndex) -> None:
    query = vectors(1, 77)
    plain = index.search(query, SearchOptions(where=WIDE, k=3))[0]
    live = index.live()
    places = {hit.key: place for place, hit in enumerate(index.hits(live))}
    mine = np.array([places[hit.key] for hit in plain])
    near = index.stored.vectors(live.file[mine], live.row[mine])
    weights = np.clip(near @ query[0], 0, None) ** 2
    expanded = query + weights @ near
    expanded /= np.linalg.norm(expanded)
    for few in (0, None):
        options = SearchOptions(where=WIDE, expand=(3, 2.0), few=few)
        found = index.search(query, options)[0]
        assert [hit.key for hit in found] == expected(index, WIDE, expanded.astype(np.float32), 10)[0]


def test_augmentation_ranks_everything(index: SearchIndex) -> None:
    with pytest.raises(UserError, match="condition"):
        Augmented(index, 3, 2.0).find(vectors(1, 3), SearchOptions(where=WIDE))


def test_shares_of_the_index_answer_as_one(root: Path, index: SearchIndex) -> None:
    catalog = Catalog(LocalStore(str(root)))
    snapshot = catalog.require_head()
    for kind in ("flat", "ivfpq", "lsh"):
        tasks = share_tasks(str(root), catalog, snapshot, (kind,), 2)
        assert len(tasks) == 2
        options = SearchOptions(where=WIDE, index=kind, few=0)
        with SearchIndex(catalog, snapshot, SharedParts(InlineCrew(tasks))) as shared:
            for _ in range(2):
                assert shared.search(vectors(9, 5), options) == index.search(vectors(9, 5), options)


def test_metadata_follows_its_files(tmp_path: Path) -> None:
    """What is new, what has changed and what is rewritten has its metadata; the rest is as it was."""
    source, root = tmp_path / "src", str(tmp_path / "root")
    options = recipe(tmp_path, ("flat",))
    write(source, "0.parquet", 0, 30)
    write(source, "1.parquet", 30, 30)
    run(source, root, recipe=options)

    def years(where: str) -> list[int]:
        with SearchIndex.open(root) as index:
            (hits,) = index.search(vectors(1, 3), SearchOptions(where=where, k=100))
        assert all(hit.metadata is not None and hit.metadata["license"] == "cc0" for hit in hits)
        return sorted(int(hit.key[-5:]) for hit in hits)

    cc0 = "license = 'cc0' and year >= 20"
    assert years(cc0) == list(range(20, 60, 4))
    write(source, "2.parquet", 60, 20)
    changed = table(30, 30)
    write_to = source / "1.parquet"
    pq.write_table(changed.set_column(3, "year", pa.array(np.arange(30) - 100)), write_to)
    second = run(source, root, recipe=options)
    assert second.plan.new_shards == 2
    assert years(cc0) == [20, 24, 28, *range(60, 80, 4)]
    delete(EditOptions(root=root, keys=("0.parquet/00024", "2.parquet/00064")))
    assert years(cc0) == [20, 28, 60, 68, 72, 76]
    compact(CompactOptions(root=root, least_dead=0.0), quiet())
    assert years(cc0) == [20, 28, 60, 68, 72, 76]
    assert not run(source, root, recipe=options).published


def test_other_metadata_is_another_recipe(tmp_path: Path) -> None:
    source, root = tmp_path / "src", str(tmp_path / "root")
    write(source, "0.parquet", 0, 30)
    first = run(source, root, recipe=recipe(tmp_path, ("flat",)))
    second = run(source, root, recipe=RecipeOptions(metadata="license:string"))
    assert second.recipe.descriptor_id != first.recipe.descriptor_id
    with SearchIndex.open(root) as index:
        (hits,) = index.search(vectors(1, 3), SearchOptions(where="license = 'cc0'", k=2))
        assert [set(hit.metadata or {}) for hit in hits] == [{"license"}] * 2
        with pytest.raises(UserError, match="'year', which is no column"):
            index.search(vectors(1, 3), SearchOptions(where="year = 3"))
    run(source, root, recipe=RecipeOptions(metadata="none"))
    with SearchIndex.open(root) as index:
        (hits,) = index.search(vectors(1, 3), SearchOptions(where="width = height", k=2))
        assert [hit.metadata for hit in hits] == [None, None]
        assert "metadata" not in hits[0].to_json()


def test_few_are_no_more_than_their_vectors_may_weigh(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Counting(1)
    filters = Filters(stored, pa.array(["f0"]), {}, {"year": "int64"})
    assert (filters.few(100), filters.few(10_000)) == (10_000, 100_000)
    stored.dim = 2048
    assert filters.few(100) == filters.few(10_000) == (64 << 20) // (4 * 2048)
    compared: list[int] = []
    exact = Filters.exact

    def noted(self: Filters, matches: Matches, queries: Floats, k: int) -> list[Candidates]:
        compared.append(matches.count)
        return exact(self, matches, queries, k)

    monkeypatch.setattr(Filters, "exact", noted)
    options = SearchOptions(where=WIDE, index="ivfpq", rerank=10_000)
    queries = vectors(5, 77)
    found = keys(index.search(queries, options))
    assert compared == [1350]
    monkeypatch.setattr(module, "VECTORS", 1349 * 4 * DIM)
    assert keys(index.search(queries, options)) == found, "the index looks at all, and scores them exactly"
    assert compared == [1350]
