"""What jobs do with the outcomes of a runner: take the values, or end the run with the first error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pipeline.core.errors import SightlineError
from pipeline.core.types import Outcome
from pipeline.publish import manifests
from pipeline.run.base import Runner
from pipeline.stages.find_rows import FindItem, FindRowsTask, FoundRows

R = TypeVar("R")


def value_of(outcome: Outcome[Any, R]) -> R:
    """Return an outcome's value; what cannot be done without ends the run."""
    if outcome.value is None:
        raise SightlineError(outcome.error or "a worker gave no result")
    return outcome.value


def find_keys(root: str, runner: Runner, items: Iterable[FindItem]) -> Iterator[tuple[FindItem, FoundRows]]:
    """Yield what was found of each item."""
    for outcome in runner.map(FindRowsTask(root=root), items):
        yield outcome.item, value_of(outcome)


def find_rows(root: str, runner: Runner, items: Iterable[FindItem]) -> manifests.Rows:
    """Return the rows that hold the keys looked for, by descriptor file id; files without any are left out."""
    rows: manifests.Rows = {}
    for item, found in find_keys(root, runner, items):
        if len(found.rows):
            rows[item.file.id] = manifests.united(rows, {item.file.id: found.rows})[item.file.id]
    return rows
