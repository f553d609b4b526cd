"""A collection's life at random against a model that is a dict: nothing is lost, doubled or brought back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipeline.core.errors import SightlineError, UserError
from tests.faulty import Mode, StopAt, Stopped, Watched
from tests.life import THOROUGH, Collection, digests, in_memory
from tests.places import on_disk

KEYS = [f"{letter}.jpg" for letter in "abcdefgh"]
keys = st.sampled_from(KEYS)
contents = st.integers(0, 4).map(lambda number: f"image {number}")


class CollectionLife(RuleBasedStateMachine):
    """source: what lies there. live: what the head must hold. copies: what came to the head and is deleted by content.

    deleted: by key, its content then and the keys of copies that stayed; see pipeline/stages/deletions.py.
    """

    place: Callable[[], AbstractContextManager[Collection]] = staticmethod(in_memory)

    def __init__(self) -> None:
        super().__init__()
        self._context = self.place()
        self.here = self._context.__enter__()
        self.source: dict[str, str] = {}
        self.live: dict[str, str] = {}
        self.copies: dict[str, str] = {}
        self.deleted: dict[str, tuple[str, set[str]]] = {}
        self.history: dict[int, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {}
        self.tagged: set[int] = set()

    def teardown(self) -> None:
        self._context.__exit__(None, None, None)

    @initialize()
    def begin(self) -> None:
        for key in KEYS[:4]:
            self._put(key, f"image {key}")
        self.index()

    def _put(self, key: str, content: str) -> None:
        self.source[key] = content
        self.here.put(key, content)

    def _remember(self) -> None:
        deleted = {key: content for key, (content, _) in self.deleted.items()}
        self.history[self.here.life.catalog.versions()[-1]] = (dict(self.live), dict(self.copies), deleted)

    def _by_content(self, key: str, content: str) -> bool:
        kept = self._kept(content)
        return kept is not None and key not in kept

    def _kept(self, content: str) -> set[str] | None:
        """The keys under which a content stays, by its last deletion; None when it is not deleted."""
        return next((kept for of, kept in reversed(self.deleted.values()) if of == content), None)

    def _hold(self, images: dict[str, str]) -> None:
        """The head comes to hold these images, as far as they are not deleted."""
        named = {key: content for key, content in images.items() if key not in self.deleted}
        self.copies = {key: content for key, content in named.items() if self._by_content(key, content)}
        self.live = {key: content for key, content in named.items() if key not in self.copies}

    @rule(key=keys, content=contents)
    def put(self, key: str, content: str) -> None:
        self._put(key, content)

    @rule(key=keys)
    def take_away(self, key: str) -> None:
        if len(self.source) > 1:
            self.source.pop(key, None)
            self.here.images.delete(key)

    @rule()
    def index(self) -> None:
        self.here.life.index()
        self._hold(self.source)
        self._remember()

    @rule()
    def retrain(self) -> None:
        self.here.life.index(retrain="always")
        self._hold(self.source)
        self._remember()

    @rule(key=keys)
    def delete(self, key: str) -> None:
        if key in self.copies:
            return  # whether its row is still there depends on compaction
        told = self.here.life.delete(key)
        if key in self.live:
            content = self.live.pop(key)
            kept = {other for other, same in self.live.items() if same == content}
            assert set(told["copies"].get(key, ())) == kept
            self.deleted[key] = (content, kept)
        self._remember()

    @rule(key=keys)
    def rename(self, key: str) -> None:
        """An image goes by another name; what is deleted stays deleted under it."""
        other = KEYS[(KEYS.index(key) + 3) % len(KEYS)]
        if key in self.source and other not in self.source:
            self._put(other, self.source[key])
            self.take_away(key)

    @rule(key=keys)
    def restore(self, key: str) -> None:
        self.here.life.restore(key)
        contents = {self.deleted[key][0]} if key in self.deleted else set()
        contents |= {self.copies.pop(key)} if key in self.copies else set()
        stay = {content: {*(self._kept(content) or ()), key} for content in contents}
        self.deleted.pop(key, None)
        self.deleted = {name: (of, set(stay.get(of, kept))) for name, (of, kept) in self.deleted.items()}
        still = {of for of, _ in self.deleted.values()}
        self.copies = {key: content for key, content in self.copies.items() if content in still}
        self._remember()

    @rule()
    def compact(self) -> None:
        self.here.life.compact()
        self._remember()

    @rule(data=st.data())
    def roll_back(self, data: Any) -> None:
        version = data.draw(st.sampled_from(sorted(self.history)))
        try:
            self.here.life.rollback(version)
        except UserError:
            return
        live, copies, deleted = self.history[version]
        self._hold({**live, **copies, **deleted})
        # What was deleted then and is allowed now comes back with the next run.
        self.live = {key: content for key, content in self.live.items() if key in live}
        self._remember()

    @rule(data=st.data())
    def tag(self, data: Any) -> None:
        version = data.draw(st.sampled_from(sorted(self.history)))
        try:
            self.here.life.tag(f"t{version}", version)
        except UserError:
            assert version not in self.tagged
            return
        self.tagged.add(version)

    @rule(grace=st.sampled_from([0.0, 1.0]), keep=st.sampled_from([0.0, 1.0]))
    def expire(self, grace: float, keep: float) -> None:
        told = self.here.life.expire(keep=keep, grace=grace)
        assert not set(told["expired"]) & self.tagged, "I8: a tagged snapshot is kept"

    @rule(seconds=st.sampled_from([10.0, 5_000.0, 200_000.0, -3_600.0]))
    def pass_time(self, seconds: float) -> None:
        self.here.later(seconds)

    @rule(at=st.integers(0, 60), mode=st.sampled_from(["before", "after", "torn", "error"]), what=st.integers(0, 3))
    def crash(self, at: int, mode: Mode, what: int) -> None:
        """An operation is stopped somewhere, and carried out again."""
        life = self.here.life
        key = sorted(self.live)[0] if self.live else KEYS[0]
        operation = (life.index, lambda: life.delete(key), life.compact, life.expire)[what]
        with self.here.through(lambda store: Watched(store, StopAt(at, mode))), suppress(Stopped, SightlineError):
            operation()
        self.here.later(1_000)
        (self.index, lambda: self.delete(key), self.compact, lambda: self.expire(0.0, 0.0))[what]()

    @precondition(lambda self: self.history)
    @invariant()
    def the_head_is_what_the_model_says(self) -> None:
        self.here.life.check(thorough=False)
        assert self.here.life.live() == digests(self.live)

    @precondition(lambda self: self.history)
    @rule()
    def everything_kept_is_whole_and_found(self) -> None:
        self.here.life.check()


class LifeOnDisk(CollectionLife):
    """The same in a folder of its own."""

    @staticmethod
    @contextmanager
    def place() -> Iterator[Collection]:
        with TemporaryDirectory() as folder, on_disk(Path(folder)) as here:
            yield here


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("machine", "share"), [(CollectionLife, 1.0), (LifeOnDisk, 0.1)])
def test_a_life_at_random_agrees_with_the_model(machine: type[CollectionLife], share: float) -> None:
    examples = int(share * (100 if THOROUGH else 10))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50 if share == 1.0 else 25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # A life of fifty steps takes minutes to shrink; the steps are printed as they are.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
        ),
    )
