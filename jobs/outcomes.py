"""What jobs do with the outcomes of a runner: take the values, or end the run with the first error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pipeline.core.errors import SightlineError
from pipeline.core.types import Outcome
from pipeline.run.base import Runner
from pipeline.stages.find_rows import FindItem, FindRowsTask, FoundRows

R = TypeVar("R")


def value_of(outcome: Outcome[Any, R]) -> R:
    """Return an outcome's value; what cannot be done without ends the run."""
    if outcome.value is None:
        raise SightlineError(outcome.told())
    return outcome.value


def find_keys(
    root: str, runner: Runner, items: Iterable[FindItem], digests: Sequence[str] = ()
) -> Iterator[tuple[FindItem, FoundRows]]:
    """Yield the images of each item: those of its keys, and those of the digests."""
    for outcome in runner.map(FindRowsTask(root=root, digests=tuple(digests)), items):
        yield outcome.item, value_of(outcome)
