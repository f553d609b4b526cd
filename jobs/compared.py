"""Which touched entries are as they were: their bytes are read and compared before anything is extracted.

Only for entries whose etag or ctime changed and whose size did not; everything else is extracted by its etag, unread.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from jobs.progress import Reporter
from pipeline.publish.lists import Lists
from pipeline.publish.plan import Plan
from pipeline.publish.recipe import Recipe
from pipeline.publish.renew import renewed, touched
from pipeline.run.base import Runner
from pipeline.stages.compare import CompareItem, CompareTask, compare_items
from pipeline.stages.kinds import source_spec


class Locations(Protocol):
    """The part of a run's options that is needed here."""

    @property
    def source(self) -> str: ...  # noqa: D102 - see IndexOptions

    @property
    def root(self) -> str: ...  # noqa: D102 - see IndexOptions


def compared(plan: Plan, base: Lists, recipe: Recipe, options: Locations, runner: Runner, reporter: Reporter) -> Plan:
    """Return the plan in which entries stay that only looked changed. What cannot be read is left to extraction."""
    total = sum(rows.num_rows for rows in touched(plan))
    if not total:
        return plan
    deletions = base.deletions.select(["key", "sha256"]).drop_null()
    deleted = frozenset(zip(deletions["key"].to_pylist(), deletions["sha256"].to_pylist(), strict=True))
    task = CompareTask(root=options.root, location=options.source, source=source_spec(recipe), deleted=deleted)
    equal = np.zeros(total, bool)
    with reporter.phase("compare", total, "entries") as phase:
        items = compare_items(touched(plan), base.descriptors, packed=plan.packed)
        for outcome in runner.map(task, items):
            item: CompareItem = outcome.item
            if outcome.value is not None:
                equal[item.place : item.place + len(outcome.value)] = outcome.value
            for _ in item.entries:
                phase.advance()
    reporter.say(
        f"{total} entries have another time, ctime or etag and the same size: {equal.sum()} hold the same bytes"
    )
    return renewed(plan, equal) if equal.any() else plan
