"""Why images were not indexed: reasons with counts and an example each, for people and for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core import staging
from pipeline.core.stats import category
from pipeline.core.types import Artifact, Reject
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.rejects import read_rejects

MOST_FILES = 1000
"""Lists of rejects that are read for reasons, one per shard that has any."""
SHOWN = 5
_SIDE_BY_SIDE = 8


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Images of one reason, how many there are and the first of them."""

    reason: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count} x {self.reason}, e.g. {self.example!r}"


class Reasons:
    """Counts reasons; keeps the first example of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count a reason, without what differs from image to image."""
        name = category(reason)
        before, first = self._found.get(name, (0, example))
        self._found[name] = before + count, first

    @property
    def total(self) -> int:
        """How many images there are of all reasons."""
        return sum(count for count, _ in self._found.values())

    def listed(self) -> tuple[Reason, ...]:
        """Return the reasons, the commonest first."""
        order = sorted(self._found.items(), key=lambda item: (-item[1][0], item[0]))
        return tuple(Reason(reason=name, count=count, example=example) for name, (count, example) in order)


def rejects_of(catalog: Catalog, files: pa.Table, most: int | None = None) -> Iterator[tuple[str, list[Reject]]]:
    """Yield the rejected images of descriptor files that have any, with the id of the file; of `most` files."""
    with_any = files.filter(pa.compute.greater(files["rejected"], 0)).slice(0, most)
    records = zip(with_any["id"].to_pylist(), manifests.artifact_column(with_any, "rejects"), strict=True)

    def read(record: tuple[str, Artifact]) -> tuple[str, list[Reject]]:
        with staging.folder("rejects-") as folder:
            found = read_rejects(catalog.fetch(record[1], Path(folder)))
        return record[0], [reject for reject in found if reject.status == "rejected"]

    with ThreadPoolExecutor(_SIDE_BY_SIDE, "rejects") as pool:
        yield from pool.map(read, records)


def reject_reasons(catalog: Catalog, files: pa.Table) -> tuple[Reason, ...]:
    """Return why images of some descriptor files were rejected, read from at most MOST_FILES of them."""
    found = Reasons()
    for _, rejects in rejects_of(catalog, files, MOST_FILES):
        for reject in rejects:
            found.add(reject.reason, reject.key)
    return found.listed()


def in_words(reasons: Iterable[Reason], most: int = SHOWN) -> str:
    """Return reasons in one line, the commonest first."""
    listed = list(reasons)
    more = sum(reason.count for reason in listed[most:])
    return "; ".join([*map(str, listed[:most]), *([f"{more} x other reasons"] if more else [])])


def as_json(reasons: Iterable[Reason]) -> list[dict[str, Any]]:
    """Return reasons as plain JSON types."""
    return [{"reason": reason.reason, "count": reason.count, "example": reason.example} for reason in reasons]
