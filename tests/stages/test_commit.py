"""Committing: what is asked before every commit, and what becomes of a race that is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pytest

from pipeline.core.errors import ConflictError, SightlineError
from pipeline.core.types import Artifact
from pipeline.extract import pooled
from pipeline.features.encoding import EncodeSpec
from pipeline.publish.lists import EMPTY, load_lists
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Snapshot, Summary
from pipeline.sources import folder
from pipeline.stages import commit
from pipeline.stages.commit import Proposal, conflict, recipe_artifacts, stage, transact
from pipeline.whiten import WhitenSpec
from tests.life import InMemory, in_memory


@pytest.fixture
def here() -> Iterator[InMemory]:
    with in_memory() as made:
        made.put("00.jpg", "an image")
        made.life.index()
        yield made


def same_again(here: InMemory, head: Snapshot | None) -> Proposal:
    assert head is not None
    lists = load_lists(here.life.catalog, head)
    return Proposal(lists=lists, recipe=head.recipe, source=head.source, summary=head.summary, operation="again")


def test_whoever_may_no_longer_publish_is_stopped_ahead_of_the_commit(here: InMemory) -> None:
    head = here.life.catalog.require_head()

    def refuse() -> None:
        raise SightlineError("the lease has lapsed")

    with pytest.raises(SightlineError, match="has lapsed"):
        transact(here.life.catalog, head, lambda now: same_again(here, now), writer="w", before=refuse)
    assert here.life.catalog.versions() == [1]


def test_it_is_asked_again_ahead_of_every_commit_that_follows_a_lost_race(here: InMemory) -> None:
    catalog, asked = here.life.catalog, []
    head = catalog.require_head()

    def another_commits_first() -> None:
        asked.append(catalog.versions()[-1])
        if len(asked) == 1:
            transact(catalog, head, lambda now: same_again(here, now), writer="other")

    snapshot = transact(catalog, head, lambda now: same_again(here, now), writer="w", before=another_commits_first)
    assert snapshot is not None
    assert (snapshot.version, snapshot.parent, asked) == (3, 2, [1, 2])


def test_a_run_whose_lease_is_removed_while_it_works_publishes_nothing(here: InMemory) -> None:
    """The run itself asks: without its `before` this would publish."""
    here.put("01.jpg", "another")
    removed: list[str] = []

    class Remover:
        def __init__(self, inner: object) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def upload(self, path: object, name: str) -> None:
            self.inner.upload(path, name)  # type: ignore[attr-defined]
            for entry in list(here.objects.list("leases")):
                here.objects.delete(entry.path)
                removed.append(entry.path)

    with here.through(Remover), pytest.raises(SightlineError, match="its lease has lapsed; nothing was published"):
        here.life.index()
    assert removed
    assert here.life.catalog.versions() == [1]


def test_a_lost_race_is_derived_again_from_the_new_head(here: InMemory) -> None:
    catalog = here.life.catalog
    head = catalog.require_head()
    seen: list[int] = []

    def derive(now: Snapshot | None) -> Proposal:
        assert now is not None
        seen.append(now.version)
        if len(seen) == 1:
            transact(catalog, head, lambda other: same_again(here, other), writer="other")
        return replace(same_again(here, now), operation=f"over {now.version}")

    snapshot = transact(catalog, head, derive, writer="w")
    assert snapshot is not None
    assert (seen, snapshot.operation) == ([1, 2], "over 2")


def test_an_operation_that_loses_every_race_gives_up_with_the_last_conflict(
    here: InMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "MAX_RACES", 3)
    catalog = here.life.catalog
    seen: list[int] = []

    def another_commits_first() -> None:
        transact(catalog, catalog.require_head(), lambda now: same_again(here, now), writer="other")

    def derive(now: Snapshot | None) -> Proposal:
        assert now is not None
        seen.append(now.version)
        return same_again(here, now)

    with pytest.raises(ConflictError):
        transact(catalog, catalog.require_head(), derive, writer="w", before=another_commits_first)
    assert seen == [1, 2, 3]
    assert catalog.versions() == [1, 2, 3, 4]
    assert {catalog.load(version).writer for version in (2, 3, 4)} == {"other"}


def test_nothing_is_published_when_nothing_is_left_to_do(here: InMemory) -> None:
    assert transact(here.life.catalog, here.life.catalog.require_head(), lambda _: None, writer="w") is None
    assert here.life.catalog.versions() == [1]


@pytest.mark.parametrize("stated", ["", "b" * 64])
def test_the_recipe_file_of_the_head_is_kept_as_long_as_its_recipe(here: InMemory, stated: str) -> None:
    catalog = here.life.catalog
    head = catalog.require_head().model_copy(update={"recipe_file": "a" * 64})
    proposal = replace(same_again(here, head), recipe_file=stated)
    other = replace(proposal, recipe=head.recipe.model_copy(update={"dtype": "float32"}))
    assert stage(catalog, head, proposal, writer="w").recipe_file == (stated or "a" * 64)
    assert stage(catalog, head, other, writer="w").recipe_file == stated
    assert stage(catalog, None, proposal, writer="w").recipe_file == stated


def test_the_first_snapshot_may_be_empty_and_has_no_parent(here: InMemory) -> None:
    catalog = here.life.catalog
    proposal = Proposal(lists=EMPTY, recipe=catalog.require_head().recipe, source="memory://x", summary=Summary())
    first = stage(catalog, None, proposal, writer="w")
    assert (first.version, first.parent, first.deletions, first.operation) == (1, None, None, "index")
    lists = load_lists(catalog, first)
    assert list(lists.listing.batches()) == []
    assert (lists.descriptors, lists.indexes) == (EMPTY.descriptors, EMPTY.indexes)


@dataclass(frozen=True)
class Rows:
    """A listing that is neither stored nor in a file."""

    table: pa.Table
    artifact: None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self.table.to_batches()


def test_a_listing_of_any_making_is_stored_with_all_its_rows(here: InMemory) -> None:
    catalog = here.life.catalog
    proposal = same_again(here, catalog.require_head())
    rows = list(proposal.lists.listing.batches())
    assert sum(batch.num_rows for batch in rows) == 1
    lists = replace(proposal.lists, listing=Rows(pa.Table.from_batches(rows * 2)))
    snapshot = stage(catalog, None, replace(proposal, lists=lists), writer="w")
    (stored,) = load_lists(catalog, snapshot).listing.batches()
    assert stored.to_pylist() == rows[0].to_pylist() * 2


def test_a_snapshot_names_every_stored_object_of_its_recipe(here: InMemory) -> None:
    """What is not named is garbage to the next collection."""
    weights, codebook, whitening = (Artifact(uri=x, sha256=x * 64, bytes=1) for x in "abc")
    extractor = pooled.Spec(backbone="squeezenet1_1", weights=weights)
    bare = Recipe(source=folder.Spec(), extractor=extractor)
    unfitted = bare.model_copy(update={"encode": EncodeSpec(method="vlad"), "whiten": WhitenSpec()})
    whole = Recipe(
        source=folder.Spec(),
        extractor=extractor,
        encode=EncodeSpec(method="vlad", artifact=codebook),
        whiten=WhitenSpec(artifact=whitening),
    )
    assert recipe_artifacts(bare) == recipe_artifacts(unfitted) == (weights,)
    assert recipe_artifacts(whole) == (weights, codebook, whitening)
    assert recipe_artifacts(whole.model_copy(update={"encode": None})) == (weights, whitening)
    proposal = replace(same_again(here, here.life.catalog.require_head()), recipe=whole)
    assert stage(here.life.catalog, None, proposal, writer="w").artifacts == (weights, codebook, whitening)


def test_a_contradiction_names_both_writers_and_what_they_worked_from(here: InMemory) -> None:
    head = here.life.catalog.require_head().model_copy(update={"version": 7, "writer": "winner", "operation": "delete"})
    base = head.model_copy(update={"version": 5})
    error = conflict(head, base, "loser", "both changed a.jpg")
    assert isinstance(error, ConflictError)
    for words in ("snapshot 7", "writer winner (delete)", "writer loser worked from snapshot 5", "both changed a.jpg"):
        assert words in str(error)
    assert "worked from nothing," in str(conflict(head, None, "loser", "why"))
