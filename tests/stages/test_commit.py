"""Committing: what is asked before every commit, and what becomes of a race that is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.core.errors import SightlineError
from pipeline.publish.lists import load_lists
from pipeline.publish.snapshot import Snapshot
from pipeline.stages.commit import Proposal, transact
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
