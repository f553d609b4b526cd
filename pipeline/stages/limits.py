"""Time limits of extraction: of an image, for each thing that is done to it, and of a shard.

An image that is not read or decoded in time is unread: nothing is known of it, and the next run tries it again. A
forward pass that does not come back means a broken process. A shard that takes too long has failed for this run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pipeline.core.errors import ReadError
from pipeline.core.limited_pool import HungError, Limit, LimitedPool
from pipeline.core.types import Image, Reject, TimeLimit
from pipeline.sources._hung import IMAGE_SECONDS as IMAGE_SECONDS
from pipeline.sources._hung import LATE

T = TypeVar("T")

SHARD_SECONDS = 3600.0
"""How long a shard may take, beside what its size adds, unless a run says otherwise."""
LEAST_RATE = 100_000
"""Bytes per second that a shard is read and described with at least: one second more for each so many."""
OPTION = "--shard-timeout"
HARD = 1.1
"""A worker gives up a shard at its next image; past its limit times this, whoever waits for it ends the worker."""


def shard_limit(seconds: float, size: int) -> float:
    """Return how long a shard of so many bytes may take; 0 for no limit."""
    return seconds + size / LEAST_RATE if seconds > 0 else 0.0


def of_decoding(seconds: float) -> Limit:
    """Return the limit of decoding an image: one that takes longer is unread."""

    def late(item: object) -> object:
        if not isinstance(item, Image):
            return item
        reason = "not decoded within its time limit"
        return Reject(key=item.key, uri=item.uri, reason=reason, bytes=len(item.data), status="unread")

    return Limit(seconds=lambda _: seconds, late=late)


def of_passes(seconds: float) -> Limit:
    """Return the limit of a forward pass over a group of images: HungError, as the device does not answer."""

    def late(group: list[object]) -> None:
        raise HungError(
            f"a forward pass of {len(group)} images did not end within {seconds * len(group):g} s (--image-timeout)"
        )

    return Limit(seconds=lambda group: seconds * len(group), late=late)


class ContainerReads:
    """Reads containers image by image. An image that does not come in time is an error of the reading."""

    def __init__(self, seconds: float, side_by_side: int) -> None:
        def late(*_: object) -> None:
            raise ReadError(f"{LATE}: its next image did not come")

        self._pool = LimitedPool(side_by_side, "container", Limit(seconds=lambda *_: seconds, late=late))

    def __call__(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items; ReadError at the first one that does not come in time."""
        remaining = iter(items)
        while (item := self._pool.submit(next, remaining, None).result()) is not None:
            yield item


def within(items: Iterable[T], seconds: float, clock: Callable[[], float] = time.monotonic) -> Iterator[T]:
    """Pass items on; TimeoutError at the first one after so many seconds, counted from the first. 0: no limit."""
    started = clock()
    for item in items:
        if seconds and clock() - started > seconds:
            raise TimeoutError(TimeLimit(seconds=seconds, option=OPTION).exceeded)
        yield item
