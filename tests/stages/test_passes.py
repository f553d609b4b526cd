"""Batching across shards: who meets in a pass, when a pass leaves, and that one shard's trouble is its own."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from pipeline.decode import Decoded
from pipeline.stages.passes import Batching, Passes, ShardPasses

FULL = 4
LONG = 600.0
SHARED = Batching(
    per_pass=lambda _: FULL, budget=1 << 20, in_flight=1 << 20, ahead=8, shared=True, later=1, seconds=LONG
)


def image(value: int, width: int = 8) -> Decoded:
    return Decoded(pixels=np.full((1, width, 3), value, np.uint8), width=width, height=1)


@dataclass
class Work:
    """One result per image: its value. Fails for values that are poison; remembers the values of every pass."""

    poison: frozenset[int] = frozenset()
    passes: list[list[int]] = field(default_factory=list)

    def __call__(self, images: Sequence[Decoded]) -> list[int]:
        values = [int(one.pixels[0, 0, 0]) for one in images]
        assert len({one.pixels.shape for one in images}) == 1
        self.passes.append(values)
        if self.poison & set(values):
            raise ValueError(f"poison in {values}")
        return values


class Shards:
    """Passes, and shards whose threads do step by step what a test wants."""

    def __init__(self, batching: Batching = SHARED, poison: Iterable[int] = ()) -> None:
        self.work = Work(poison=frozenset(poison))
        self.passes: Passes[int] = Passes(self.work, ThreadPoolExecutor(1), batching)
        self._threads = ThreadPoolExecutor(16)

    def begin(self, *images: Decoded) -> Shard:
        """A shard that is given these images and is then still being read."""
        return Shard(self.passes, self._threads, images)


class Shard:
    def __init__(self, passes: Passes[int], threads: ThreadPoolExecutor, images: Sequence[Decoded]) -> None:
        self._given, self._end = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self.future: Future[dict[int, int]] = threads.submit(self._describe, passes, images)
        assert self._given.wait(10)

    def _describe(self, passes: Passes[int], images: Sequence[Decoded]) -> dict[int, int]:
        with passes.shard() as part:
            try:
                for row, one in enumerate(images):
                    part.add(row, one)
            finally:
                self._given.set()
            self._end.wait(10)
            if self._error is not None:
                raise self._error
            return part.results()

    def end(self, error: Exception | None = None) -> Shard:
        self._error = error
        self._end.set()
        return self

    def result(self) -> dict[int, int]:
        return self.future.result(10)


def settled(condition: Callable[[], bool]) -> bool:
    """Wait for what another thread does."""
    return any(condition() or threading.Event().wait(0.01) for _ in range(1000))


def test_images_of_several_shards_meet_in_a_pass_and_every_shard_has_its_own_rows() -> None:
    shards = Shards()
    one = shards.begin(image(1), image(9, 16), image(2))
    two = shards.begin(image(3), image(4)).end()
    assert one.end().result() == {0: 1, 1: 9, 2: 2}
    assert two.result() == {0: 3, 1: 4}
    assert sorted(shards.work.passes) == [[1, 2, 3, 4], [9]]


def test_shards_do_not_meet_where_they_are_not_to() -> None:
    shards = Shards(replace(SHARED, shared=False))
    one = shards.begin(image(1), image(2))
    two = shards.begin(image(3), image(4))
    assert (one.end().result(), two.end().result()) == ({0: 1, 1: 2}, {0: 3, 1: 4})
    assert sorted(shards.work.passes) == [[1, 2], [3, 4]]


def test_a_shard_that_was_read_waits_for_company_until_another_was_read_after_it() -> None:
    shards = Shards()
    last = shards.begin(image(7, 24))
    one = shards.begin(image(1)).end()
    assert not shards.work.passes
    assert shards.begin(image(2)).end().future.running()
    assert one.result() == {0: 1}, "two is being waited with, and last is still being read"
    assert shards.work.passes == [[1, 2]]
    assert last.end().result() == {0: 7}


def test_the_last_shard_waits_for_nobody() -> None:
    assert Shards().begin(image(1)).end().result() == {0: 1}


def test_a_shard_waits_no_longer_than_the_bound() -> None:
    shards = Shards(replace(SHARED, seconds=0.0))
    reading = shards.begin(image(1))
    assert shards.begin(image(2)).end().result() == {0: 2}, "though another is being read"
    assert reading.end().result() == {0: 1}
    assert shards.work.passes == [[1, 2]]


@pytest.mark.parametrize(("shared", "leaves"), [(True, [1, 3]), (False, [2])])
def test_what_is_too_much_leaves_by_its_size_and_among_shards_by_its_age_too(shared: bool, leaves: list[int]) -> None:
    shards = Shards(replace(SHARED, budget=100, shared=shared))
    reading = shards.begin(image(1), image(2, 20), image(3))
    assert settled(lambda: shards.work.passes == [leaves])
    assert reading.end().result() == {0: 1, 1: 2, 2: 3}


def test_an_error_of_a_pass_reaches_the_shard_whose_image_it_is_and_no_other() -> None:
    shards = Shards(poison=[3])
    one, two = shards.begin(image(1), image(2)), shards.begin(image(3), image(4))
    assert one.end().result() == {0: 1, 1: 2}
    with pytest.raises(ValueError, match=r"poison in \[3, 4\]"):
        two.end().result()


def test_a_shard_that_fails_takes_only_its_own_images_along() -> None:
    shards = Shards()
    one, two = shards.begin(image(1), image(2)), shards.begin(image(3), image(9, 16))
    one.end()
    with pytest.raises(OSError, match="the source"):
        two.end(OSError("the source went away")).result()
    assert one.result() == {0: 1, 1: 2}, "nobody is left whom it could wait for"
    assert shards.work.passes == [[1, 2]]
    assert shards.passes.backlog == 0


def test_whoever_waits_for_company_hears_that_the_run_ends() -> None:
    shards = Shards()
    reading, waiting = shards.begin(image(1)), shards.begin(image(2)).end()
    shards.passes.stop()
    for shard in (waiting, reading.end()):
        with pytest.raises(InterruptedError):
            shard.result()


def test_passes_are_not_made_much_faster_than_they_are_done() -> None:
    go, given = threading.Event(), []

    def slow(images: Sequence[Decoded]) -> list[int]:
        go.wait(10)
        return [0] * len(images)

    passes: Passes[int] = Passes(slow, ThreadPoolExecutor(1), replace(SHARED, ahead=2))

    def describe() -> dict[int, int]:
        with passes.shard() as part:
            for row in range(10 * FULL):
                part.add(row, image(0))
                given.append(row)
            return part.results()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(describe)
        assert settled(lambda: len(given) == 3 * FULL - 1)
        go.set()
        assert len(running.result(10)) == 10 * FULL


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shared", [True, False])
def test_whatever_ends_or_fails_when_every_other_shard_has_all_of_its_rows(seed: int, shared: bool) -> None:
    odds = random.Random(seed)
    batching = replace(SHARED, shared=shared, budget=odds.choice([200, 2000, 1 << 20]), later=odds.choice([1, 2]))
    work = Work(poison=frozenset({251, 252}))
    passes: Passes[int] = Passes(work, ThreadPoolExecutor(2), batching)
    reading = threading.Lock()

    def describe(number: int) -> tuple[dict[int, int], list[int]]:
        dice = random.Random(1000 * seed + number)
        values = [dice.choices(range(256), [1.0] * 251 + [0.1] * 5)[0] for _ in range(dice.randrange(40))]
        with passes.shard() as part:
            with reading:
                for row, value in enumerate(values):
                    part.add(row, image(value, dice.randrange(1, 12)))
                    if dice.random() < 0.004:
                        raise OSError("the source went away")
            return part.results(), values

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(describe, number) for number in range(40)]
    good = 0
    for one in running:
        error = one.exception(10)
        if error is None:
            found, values = one.result()
            assert found == dict(enumerate(values))
            good += 1
        else:
            assert isinstance(error, OSError | ValueError)
    assert good > 20
    assert settled(lambda: passes.backlog == 0)


class Hanging(Executor):
    """A pool that gives every call up."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        threading.Timer(0.05, future.set_exception, [TimeoutError("it does not come back")]).start()
        return future


def test_a_pass_that_its_pool_gives_up_fails_the_shards_that_are_in_it() -> None:
    passes: Passes[int] = Passes(Work(), Hanging(), SHARED)
    with passes.shard() as part:
        part.add(0, image(1))
        with pytest.raises(TimeoutError, match="come back"):
            part.results()


def test_a_part_is_typed_by_what_passes_make() -> None:
    passes: Passes[str] = Passes(lambda images: ["x"] * len(images), ThreadPoolExecutor(1), SHARED)
    with passes.shard() as part:
        assert isinstance(part, ShardPasses)
        part.add(0, image(1))
        assert part.results() == {0: "x"}
