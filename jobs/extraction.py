"""Extraction of a run's shards: completion records gathered, failures and unread entries noted, the end of patience.

Nothing is published here, and nothing is decided about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import pyarrow as pa

from jobs.progress import Reporter
from jobs.reasons import Reason, Reasons, in_words
from pipeline.core.errors import SightlineError
from pipeline.core.names import public_url
from pipeline.core.stats import added
from pipeline.core.types import DescriptorFile, Outcome, Shard
from pipeline.publish import manifests
from pipeline.publish.parts import Part
from pipeline.run.base import Runner
from pipeline.stages import unread
from pipeline.stages.extract import ExtractTask

SHARDS_IN_A_ROW = 3
"""Shards of which no entry could be read, at least, before the place is taken to be away."""


@dataclass(kw_only=True)
class Extracted:
    """What came of shards. files: completion records, as a descriptor table sorted by shard id.

    set_aside: shards without a record, and why; corrupt: those of them whose own bytes are the reason. parts: shards of
    which some entries were not read. not_tried: shards that were left when patience ended. unread: why entries were not
    read, those of shards without a record included.
    """

    files: pa.Table = field(default_factory=manifests.DESCRIPTORS.empty_table)
    set_aside: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    not_tried: list[str] = field(default_factory=list)
    corrupt: list[tuple[Shard, str]] = field(default_factory=list)
    unread: Reasons = field(default_factory=Reasons)
    stats: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> pa.Array:
        """Ids of the shards that have entries without a record."""
        return pa.array([*self.set_aside, *self.parts, *self.not_tried], pa.string())


def extract(
    task: ExtractTask, shards: Iterable[Shard], *, runner: Runner, reporter: Reporter, name: str, total: int
) -> Extracted:
    """Extract shards, or use their completion records. name: of the phase; total: how many shards there are.

    After `task.max_read_errors` failed reads in a row no further shard is tried; SightlineError when no read succeeded.
    """
    found, done = Extracted(), manifests.DescriptorRows()
    patience = _Patience(task.max_read_errors)
    remaining = iter(shards)
    with reporter.phase(name, total) as progress:
        for outcome in runner.map(task, patience.passed(remaining)):
            found.stats = added(found.stats, {"busy_seconds": outcome.seconds, **outcome.stats})
            if outcome.value is None:
                _failed(outcome, found, reporter)
            else:
                done.append(outcome.value)
                _partly(outcome.item, outcome.value, found, reporter)
            patience.note(outcome)
            progress.advance(outcome.value.seen if outcome.value else 0)
    if patience.stopped:
        line = _gone(task, patience.failed, found)
        if not patience.succeeded:
            raise SightlineError(f"{line}; nothing is published")
        reporter.say(line)
        _not_tried(remaining, found)
    # Workers end in any order; what is derived from the files is not to depend on it.
    found.files = done.table().sort_by("shard_id")
    return found


def nothing_because(found: Extracted, rejected: Sequence[Reason]) -> str:
    """Return why nothing was indexed: what could not be read, and why the rest was rejected."""
    parts = [f"all {sum(reason.count for reason in rejected)} images were rejected: {in_words(rejected)}"]
    parts = parts if rejected else []
    if found.unread.total:
        parts.insert(0, f"could not be read: {in_words(found.unread.listed())}")
    elif found.set_aside:
        parts.insert(0, next(iter(found.set_aside.values())))
    return "; ".join(parts) or "it holds no images"


def _failed(outcome: Outcome[Shard, DescriptorFile], found: Extracted, reporter: Reporter) -> None:
    shard, error = outcome.item, outcome.error or ""
    line = f"{shard.uri}: {outcome.told(shard.uri)}"
    found.set_aside[shard.id] = line
    reporter.say(f"set aside: {line}")
    if outcome.content:
        found.corrupt.append((shard, error))
    if outcome.unread:
        first = shard.entries[0].path
        found.unread.add(error.removeprefix(f"{first}: "), first, len(shard.entries))


def _partly(shard: Shard, file: DescriptorFile, found: Extracted, reporter: Reporter) -> None:
    if not file.unread:
        return
    found.parts[shard.id] = Part(shard=file.shard_id, unread=tuple(path for path, _ in file.unread))
    for path, reason in file.unread:
        found.unread.add(reason, path)
    path, reason = file.unread[0]
    reporter.say(f"not read: {len(file.unread)} of {len(shard.entries)} images of a shard, e.g. {path}: {reason}")


def _not_tried(shards: Iterable[Shard], found: Extracted) -> None:
    for shard in shards:
        found.not_tried.append(shard.id)
        found.unread.add(unread.NOT_TRIED, shard.entries[0].path, len(shard.entries))


class _Patience:
    """Counts reads that failed since the last one that succeeded, over whole shards."""

    def __init__(self, limit: int) -> None:
        self._limit, self._shards = limit, 0
        self.failed, self.succeeded = 0, False
        self.stopped = False

    @property
    def _ended(self) -> bool:
        """Whether the place is taken to be away. A single shard may as well have met a worker without the mount."""
        return self.failed >= self._limit and self._shards >= SHARDS_IN_A_ROW

    def passed(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """Pass shards on as long as there is patience."""
        while not self._ended:
            shard = next(shards, None)
            if shard is None:
                return
            yield shard
        self.stopped = True

    def note(self, outcome: Outcome[Shard, DescriptorFile]) -> None:
        """Count the reads of a shard; what failed for other reasons says nothing of the place."""
        if outcome.value is None:
            if outcome.unread and not self.stopped:
                self.failed += len(outcome.item.entries)
                self._shards += 1
            return
        if self.stopped:
            # Shards that were under way may still end well; what was not tried stays so.
            self.succeeded = True
            return
        missing = {path for path, _ in outcome.value.unread}
        last = (entry.path in missing for entry in reversed(outcome.item.entries))
        self.failed = sum(1 for _ in takewhile(bool, last))
        self._shards, self.succeeded = int(self.failed > 0), True


def _gone(task: ExtractTask, count: int, found: Extracted) -> str:
    last = found.unread.listed()[0]
    return (
        f"{public_url(task.location)}: {count} reads in a row failed ({last.reason}, e.g. {last.example!r}), the rest "
        "is not tried; see that it is mounted and answers, and run again (finished shards are not redone), or raise "
        "--max-read-errors"
    )
