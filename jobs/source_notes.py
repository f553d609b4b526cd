"""What is worth knowing of a source before it is read: of the largest new files, where they are containers."""

from __future__ import annotations

import heapq

import pyarrow.compute as pc

from pipeline.core.types import Entry
from pipeline.publish.plan import Plan, entries_of
from pipeline.sources import SourceSpec

LOOK = 8
"""Files that are looked at: whoever wrote one large file wrote its neighbours so too."""
LARGE = 64 << 20
"""Bytes of a file below which hardly anything in it can be too large."""


def source_notes(plan: Plan, spec: SourceSpec, location: str, *, large: int = LARGE) -> list[str]:
    """Return a line for each of the largest new containers that is worth one."""
    if spec.packs or not plan.count("add"):
        return []
    largest: list[Entry] = []
    for batch in plan.batches():
        wanted = batch.filter(pc.and_(pc.equal(batch["status"], "add"), pc.greater(batch["size"], large)))
        entries = (entry for entry, _ in entries_of(wanted))
        largest = heapq.nlargest(LOOK, [*largest, *entries], key=lambda entry: entry.size)
    return spec.notes(location, largest)
