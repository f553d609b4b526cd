"""Containers that fail because of their own bytes: certain only once a second reading has failed in the same way.

A run remembers such a failure, and no later one reads the container again. A bit that was lost on the way, or a file
that was still being written, must not be taken for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pipeline.core.errors import ContentError, ShardError
from pipeline.stages.unread import persistent

R = TypeVar("R")


def confirmed(describe: Callable[[], R], walk: Callable[[], object]) -> R:
    """Return what `describe` returns; ContentError when the bytes are certainly the reason why it fails, else others.

    walk: reads the container to its end, and describes nothing.
    """
    try:
        return describe()
    except ContentError as error:
        first = error
    second = persistent(lambda: _fault(walk))
    if second is None:
        return _described(describe, first)
    if second == str(first):
        raise first
    raise ShardError(f"{second}; the time before: {first}")


def _fault(walk: Callable[[], object]) -> str | None:
    try:
        walk()
    except ContentError as error:
        return str(error)
    return None


def _described(describe: Callable[[], R], before: ContentError) -> R:
    """Describe what could be read the second time."""
    try:
        return describe()
    except ContentError as error:
        raise ShardError(f"{error}; the times before: {before}, and none") from None
