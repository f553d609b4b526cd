"""Shares of the index shards answer as one: the same files, rows, scores and ties as all of them in one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.opened import open_search
from jobs.recipe import RecipeOptions
from jobs.runners import RunnerOptions
from pipeline.core.errors import UserError
from pipeline.core.local import LocalStore
from pipeline.core.resources import PROCESS_BYTES
from pipeline.core.specs import kinds
from pipeline.core.types import Floats
from pipeline.publish.catalog import Catalog
from pipeline.run.inline import InlineCrew
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.search.find import find
from pipeline.search.merge import Candidates
from pipeline.search.parts import PartQuery
from pipeline.search.query import QueryExtractor
from pipeline.search.shares import Question, SharedParts, share_tasks
from tests.builders import encoded, run, write_files
from tests.shared_root import DIM, ROWS, publish_vectors

KINDS = kinds("pipeline.index")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return publish_vectors(tmp_path_factory.mktemp("shares"), KINDS)


@pytest.fixture(scope="module")
def local(root: str) -> Iterator[SearchIndex]:
    with SearchIndex.open(root) as index:
        yield index


def shared(root: str, wanted: tuple[str, ...], workers: int) -> SearchIndex:
    catalog = Catalog(LocalStore(root))
    snapshot = catalog.require_head()
    return SearchIndex(
        catalog, snapshot, SharedParts(InlineCrew(share_tasks(root, catalog, snapshot, wanted, workers)))
    )


def questions(index: SearchIndex, count: int = 24) -> Floats:
    """Vectors of the collection, so that there are ties, and others; frozen as what comes through Ray is."""
    places = index.live()
    mine = index.stored.vectors(places.file[:: len(places) // count], places.row[:: len(places) // count])
    others = np.random.default_rng(9).normal(size=(count, DIM)).astype(np.float32)
    both = np.concatenate([mine, others / np.linalg.norm(others, axis=1, keepdims=True)])
    both.setflags(write=False)
    return both


def expect_same(one: list[Candidates], other: list[Candidates]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine.file, theirs.file)
        np.testing.assert_array_equal(mine.row, theirs.row)
        np.testing.assert_array_equal(mine.score, theirs.score)


@pytest.mark.parametrize("workers", [2, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_shares_answer_as_all_index_shards_in_one_process(
    root: str, local: SearchIndex, kind: str, workers: int
) -> None:
    asked = questions(local)
    with shared(root, (kind,), workers) as index:
        for depth, rerank in ((1, None), (7, 0), (ROWS, 0)):
            options = SearchOptions(k=depth, index=kind, rerank=rerank)
            expect_same(index.candidates(asked, options), local.candidates(asked, options))
        assert index.candidates(asked[:0], SearchOptions(index=kind)) == []


def test_the_collection_has_ties_across_index_shards_and_dead_rows(root: str, local: SearchIndex) -> None:
    """What the other tests rest on."""
    assert len(local.live()) < ROWS
    shards = local._shards
    assert all(sum(shard.kind == kind for shard in shards) >= 4 for kind in KINDS)
    found = local.candidates(questions(local)[:1], SearchOptions(k=3, index="flat"))[0]
    assert found.score[0] == found.score[1]
    assert found.file[0] != found.file[1]


def test_effort_and_hidden_rows_reach_the_shares(root: str, local: SearchIndex) -> None:
    asked, spec = questions(local), local.spec("ivfpq")
    plain = local._parts.search(spec, PartQuery(queries=asked, depth=5))
    names = local._ids.to_pylist()
    best = plain[0]
    hidden = {names[int(best.file[0])]: np.array([int(best.row[0])])}
    with shared(root, ("ivfpq",), 2) as index:
        for query in (
            PartQuery(queries=asked, depth=5, effort=1),
            PartQuery(queries=asked, depth=5, hidden=hidden),
        ):
            found = index._parts.search(spec, query)
            expect_same(found, local._parts.search(spec, query))
            assert [part.file.tolist() for part in found] != [part.file.tolist() for part in plain] or query.effort
    question = Question(kind="ivfpq", query=PartQuery(queries=asked, depth=5, hidden=hidden))
    assert question.nbytes == asked.nbytes + 8


def test_there_are_no_more_shares_than_index_shards_and_their_memory_is_that_of_their_files(
    root: str, local: SearchIndex
) -> None:
    catalog = Catalog(LocalStore(root))
    snapshot = catalog.require_head()
    sizes = {len(share_tasks(root, catalog, snapshot, ("flat",), most)) for most in (1, 2, 3, 500)}
    assert sizes == {1, 2, 3, len([shard for shard in local._shards if shard.kind == "flat"])}
    tasks = share_tasks(root, catalog, snapshot, ("flat", "lsh"), 3)
    assert [(task.number, task.of, task.kinds) for task in tasks] == [(n, 3, ("flat", "lsh")) for n in range(3)]
    total = sum(shard.artifact.bytes for shard in local._shards if shard.kind in ("flat", "lsh"))
    assert sum(task.memory - PROCESS_BYTES for task in tasks) == total
    largest = max(shard.artifact.bytes for shard in local._shards)
    assert max(task.memory for task in tasks) - min(task.memory for task in tasks) <= 2 * largest


def test_a_kind_that_was_not_opened_is_refused_in_one_line(root: str) -> None:
    with shared(root, ("flat", "lsh"), 2) as index, pytest.raises(UserError, match="which hold flat, lsh"):
        index.candidates(questions(index), SearchOptions(index="ivfpq"))
    with pytest.raises(UserError, match="is not in this snapshot"):
        open_search(root, runner=RunnerOptions(kind="ray"), kinds=("nope",))


def test_local_descriptors_vote_the_same(tmp_path: Path) -> None:
    """Several rows of one image have one id: equal scores, files and rows are equal results."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('indexes = [{kind = "flat"}, {kind = "ivfpq"}]\n[extractor]\nkind = "sift"\nfeatures = 40\n')
    coarse = [np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8) for seed in range(9)]
    pictures = [Image.fromarray(pixels).resize((160, 120), Image.Resampling.BILINEAR) for pixels in coarse]
    source = write_files(tmp_path / "src", {f"{n}.png": encoded(picture) for n, picture in enumerate(pictures)})
    root = str(tmp_path / "root")
    run(source, root, recipe=RecipeOptions(recipe=str(recipe)), files=3, rows_per_index_shard=100)
    extractor = QueryExtractor(LocalStore(root), Catalog(LocalStore(root)).require_head().recipe, torch.device("cpu"))
    query = extractor.describe(encoded(pictures[4]), "query")
    with SearchIndex.open(root) as alone:
        for kind in alone.kinds:
            with shared(root, (kind,), 2) as index:
                options = SearchOptions(k=9, index=kind)
                hits = find(index, [query], options)
                assert hits == find(alone, [query], options)
                assert hits[0][0].key == "4.png"


def test_several_threads_ask_at_a_time(root: str, local: SearchIndex) -> None:
    asked = questions(local)
    expected = local.candidates(asked, SearchOptions(k=9, index="ivfpq"))
    with shared(root, ("ivfpq",), 2) as index, ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: index.candidates(asked, SearchOptions(k=9, index="ivfpq")), range(12)):
            expect_same(found, expected)


def test_closing_removes_what_shares_staged(root: str) -> None:
    catalog = Catalog(LocalStore(root))
    (task,) = share_tasks(root, catalog, catalog.require_head(), ("flat",), 1)
    share = task.open(1)
    folder = Path(share._folder.name)
    assert folder.is_dir()
    share.close()
    assert not folder.exists()


def test_an_expired_snapshot_is_not_opened(root: str) -> None:
    catalog = Catalog(LocalStore(root))
    (task,) = share_tasks(root, catalog, catalog.require_head(), ("flat",), 1)
    with pytest.raises(UserError, match="has no snapshot 99"):
        replace(task, version=99).open(1)


def test_a_search_is_opened_in_this_process_unless_ray_is_asked_for(root: str, local: SearchIndex) -> None:
    before = threading.active_count()
    with open_search(root, runner=RunnerOptions(workers=3)) as index:
        expect_same(
            index.candidates(questions(local), SearchOptions()), local.candidates(questions(local), SearchOptions())
        )
    with open_search(root, version=1) as index:
        assert index.snapshot.version == 1
    assert threading.active_count() == before
