"""What is worth knowing of a source before it is read: of its largest containers, or of very many single files."""

from __future__ import annotations

import heapq

import pyarrow.compute as pc

from pipeline.core.storage import is_distant
from pipeline.core.types import Entry
from pipeline.publish.plan import Plan, entries_of
from pipeline.sources import SourceSpec

LOOK = 8
"""Files that are looked at: whoever wrote one large file wrote its neighbours so too."""
LARGE = 64 << 20
"""Bytes of a file below which hardly anything in it can be too large."""


MANY = 100_000
"""Single files in an object store from which on packing them is worth a line."""


def source_notes(plan: Plan, spec: SourceSpec, location: str, *, large: int = LARGE, many: int = MANY) -> list[str]:
    """Return a line for each of the largest new containers that is worth one, or one for very many single files."""
    added = plan.count("add")
    if spec.packs:
        distant = added > many and is_distant(spec.files(location))
        return [_single(added)] if distant else []
    if not added:
        return []
    largest: list[Entry] = []
    for batch in plan.batches():
        wanted = batch.filter(pc.and_(pc.equal(batch["status"], "add"), pc.greater(batch["size"], large)))
        entries = (entry for entry, _ in entries_of(wanted))
        largest = heapq.nlargest(LOOK, [*largest, *entries], key=lambda entry: entry.size)
    return spec.notes(location, largest)


def _single(files: int) -> str:
    return (
        f"{files:,} single files are read from an object store by a request each; the same images in tar or Parquet "
        "files of some 100 MB are read with a thousandth of the requests and less CPU"
    )
