"""A collection's life at random against a model that is a dict: nothing is lost, doubled or brought back."""

from __future__ import annotations

from contextlib import suppress
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
from tests.life import THOROUGH, digests, in_memory

KEYS = [f"{letter}.jpg" for letter in "abcdefgh"]
keys = st.sampled_from(KEYS)
contents = st.integers(0, 4).map(lambda number: f"image {number}")


class CollectionLife(RuleBasedStateMachine):
    """source: what lies there. live: what the head must hold. deleted: keys that must not come back by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._context = in_memory()
        self.here = self._context.__enter__()
        self.source: dict[str, str] = {}
        self.live: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.history: dict[int, dict[str, str]] = {}
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
        self.history[self.here.life.catalog.versions()[-1]] = dict(self.live)

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
        self.live = {key: content for key, content in self.source.items() if key not in self.deleted}
        self._remember()

    @rule()
    def retrain(self) -> None:
        self.here.life.index(retrain="always")
        self.live = {key: content for key, content in self.source.items() if key not in self.deleted}
        self._remember()

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.here.life.delete(key)
        if key in self.live:
            self.deleted.add(key)
            del self.live[key]
        self._remember()

    @rule(key=keys)
    def restore(self, key: str) -> None:
        self.here.life.restore(key)
        self.deleted.discard(key)
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
        self.live = {key: content for key, content in self.history[version].items() if key not in self.deleted}
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
        self.here.clock.now += seconds

    @rule(at=st.integers(0, 60), mode=st.sampled_from(["before", "after", "torn", "error"]), what=st.integers(0, 3))
    def crash(self, at: int, mode: Mode, what: int) -> None:
        """An operation is stopped somewhere, and carried out again."""
        life = self.here.life
        key = sorted(self.live)[0] if self.live else KEYS[0]
        operation = (life.index, lambda: life.delete(key), life.compact, life.expire)[what]
        with self.here.through(lambda store: Watched(store, StopAt(at, mode))), suppress(Stopped, SightlineError):
            operation()
        self.here.clock.now += 1_000
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


@pytest.mark.timeout(900)
def test_a_life_at_random_agrees_with_the_model() -> None:
    examples = 100 if THOROUGH else 10
    run_state_machine_as_test(
        CollectionLife,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # A life of fifty steps takes minutes to shrink; the steps are printed as they are.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
        ),
    )
