"""Batching: images of equal shape meet in one forward pass; on a GPU, those of all shards that a worker has in flight.

A pass leaves when it is full, when a shard that was read to its end has waited long enough for its last images, and
when what waits for company exceeds its budget: of several shards the one of most bytes times age. (Let images of a
shape come at a rate r and leave every T: passes, the sum of 1/T, are fewest for a bounded sum of r*T where every r*T^2
is the same.) A pass that fails is done again shard by shard, so that
an error reaches only the shard it belongs to. Nothing here knows what a pass does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipeline.decode import Decoded

R = TypeVar("R")
Shape = tuple[int, ...]
Member = tuple["ShardPasses[R]", int, Decoded]
"""An image that waits for company: its shard, its row there, its pixels."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How images are batched.

    per_pass: images of a shape in a full pass. budget: bytes of pixels that may wait for company. in_flight: bytes of
    those in unfinished passes, of which there may be so many `ahead`. shared: images of different shards meet in a
    pass. A shard read to its end then waits until `later` others have been read to theirs, or no other is being read,
    and at most so many `seconds`.
    """

    per_pass: Callable[[Shape], int]
    budget: int
    in_flight: int
    ahead: int
    shared: bool = False
    later: int = 3
    seconds: float = 20.0


class Passes(Generic[R]):
    """See the module. Thread-safe: every shard is given its images by a thread of its own.

    work: makes one result per image of a pass, in their order, in a thread of the pool.
    """

    def __init__(self, work: Callable[[Sequence[Decoded]], Sequence[R]], pool: Executor, batching: Batching) -> None:
        self._work, self._pool, self._batching = work, pool, batching
        self._changed = threading.Condition()
        self._waiting: dict[tuple[Any, Shape], list[Member[R]]] = {}
        self._held = self._unfinished = self._unfinished_bytes = self._backlog = self._added = 0
        self._since: dict[tuple[Any, Shape], int] = {}
        self._shards: list[ShardPasses[R]] = []
        self._stopped = False

    @contextmanager
    def shard(self) -> Iterator[ShardPasses[R]]:
        """Give the passes of one shard; what it left behind when the block ends with an error is dropped."""
        part = ShardPasses(self)
        with self._changed:
            self._shards.append(part)
        try:
            yield part
        finally:
            with self._changed:
                self._leave_out(part)

    def stop(self) -> None:
        """Raise InterruptedError in every thread that gives images or waits for results."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def backlog(self) -> int:
        """How many images wait for a pass to take them."""
        return self._backlog

    def _add(self, part: ShardPasses[R], row: int, image: Decoded) -> None:
        with self._changed:
            self._check(part)
            shape = image.pixels.shape
            key = (None if self._batching.shared else part, shape)
            group = self._waiting.setdefault(key, [])
            self._added += 1
            self._since.setdefault(key, self._added)
            group.append((part, row, image))
            part.pending += 1
            self._backlog += 1
            self._held += image.pixels.nbytes
            if len(group) >= self._batching.per_pass(shape):
                self._start(key)
            elif self._held > self._batching.budget:
                self._start(max(self._waiting, key=self._claim))
            while self._crowded:
                self._changed.wait()
                self._check(part)

    def _results(self, part: ShardPasses[R]) -> dict[int, R]:
        with self._changed:
            part.reading = False
            for other in self._shards:
                other.later += not other.reading and other is not part
            due = time.monotonic() + self._batching.seconds
            self._start_due()
            while part.pending:
                self._check(part)
                if not self._changed.wait(None if part.due else max(0.0, due - time.monotonic())):
                    self._start_all_of(part)
            self._check(part)
            return part.found

    def _check(self, part: ShardPasses[R]) -> None:
        if part.error is not None:
            raise part.error
        if self._stopped:
            raise InterruptedError("the run is ending")

    @property
    def _crowded(self) -> bool:
        """Whether passes are made faster than they are done."""
        too_large = self._unfinished > 1 and self._unfinished_bytes > self._batching.in_flight
        return too_large or self._unfinished > self._batching.ahead

    def _claim(self, key: tuple[Any, Shape]) -> int:
        """Return how much a pass that is not full ought to leave."""
        age = self._added - self._since[key] + 1 if self._batching.shared else 1
        return age * _bytes(self._waiting[key])

    def _start_due(self) -> None:
        """Start the passes of every shard that has waited long enough: none of its company is still to come."""
        read = [part for part in self._shards if not part.reading]
        nobody_reads = len(read) == len(self._shards)
        for part in read:
            if nobody_reads or not self._batching.shared or part.later >= self._batching.later:
                self._start_all_of(part)

    def _start_all_of(self, part: ShardPasses[R]) -> None:
        part.due = True
        for key in [key for key, group in self._waiting.items() if any(member[0] is part for member in group)]:
            self._start(key)

    def _start(self, key: tuple[Any, Shape]) -> None:
        group = self._waiting.pop(key)
        del self._since[key]
        self._held -= _bytes(group)
        self._unfinished += 1
        self._unfinished_bytes += _bytes(group)
        running = self._pool.submit(self._run, group)
        running.add_done_callback(lambda done: self._deliver(group, done))

    def _run(self, group: list[Member[R]]) -> list[R | _Failed]:
        with self._changed:
            self._backlog -= len(group)
        return self._outcomes(group)

    def _deliver(self, group: list[Member[R]], done: Future[list[R | _Failed]]) -> None:
        # A pool with a time limit may answer in the place of a pass that does not come back.
        error = done.exception()
        outcomes = done.result() if error is None else [_Failed(error)] * len(group)
        with self._changed:
            self._unfinished -= 1
            self._unfinished_bytes -= _bytes(group)
            for (part, row, _), outcome in zip(group, outcomes, strict=True):
                part.pending -= 1
                if isinstance(outcome, _Failed):
                    part.error = part.error or outcome.error
                else:
                    part.found[row] = outcome
            self._changed.notify_all()

    def _outcomes(self, group: Sequence[Member[R]]) -> list[R | _Failed]:
        """Return what a pass makes of each image; where it fails, what passes of one shard each make of them."""
        try:
            return list(self._work([image for _, _, image in group]))
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the shard
            parts = list(dict.fromkeys(part for part, _, _ in group))
            if len(parts) == 1:
                return [_Failed(error)] * len(group)
        found: dict[int, R | _Failed] = {}
        for one in parts:
            places = [place for place, member in enumerate(group) if member[0] is one]
            found.update(zip(places, self._outcomes([group[place] for place in places]), strict=True))
        return [found[place] for place in range(len(group))]

    def _leave_out(self, part: ShardPasses[R]) -> None:
        """Forget a shard; others may have waited for its images alone."""
        self._shards.remove(part)
        for key, group in list(self._waiting.items()):
            kept = [member for member in group if member[0] is not part]
            self._held -= _bytes(group) - _bytes(kept)
            self._backlog -= len(group) - len(kept)
            if kept:
                self._waiting[key] = kept
            else:
                del self._waiting[key], self._since[key]
        self._start_due()
        self._changed.notify_all()


@dataclass(eq=False)
class ShardPasses(Generic[R]):
    """The images of one shard: `add` them as they are decoded, then ask for the `results`."""

    passes: Passes[R] = field(repr=False)
    found: dict[int, R] = field(default_factory=dict)
    error: BaseException | None = None
    pending: int = 0
    reading: bool = True
    due: bool = False
    later: int = 0

    def add(self, row: int, image: Decoded) -> None:
        """Give an image; waits while too many passes are unfinished. An error of an earlier pass is raised here."""
        self.passes._add(self, row, image)

    def results(self) -> dict[int, R]:
        """Say that there are no more images, wait, and return the result of every row; errors of passes are raised."""
        return self.passes._results(self)


@dataclass(frozen=True)
class _Failed:
    error: BaseException


def _bytes(group: Sequence[Member[Any]]) -> int:
    """Return the bytes of pixels of images of one shape."""
    return len(group) * group[0][2].pixels.nbytes if group else 0
