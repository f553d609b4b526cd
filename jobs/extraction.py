"""Extraction of a run's shards: completion records gathered, failures and unread entries noted, the end of patience.

Nothing is published here, and nothing is decided about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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
from pipeline.stages.extract import ExtractTask


@dataclass(kw_only=True)
class Extracted:
    """What came of shards. files: completion records, as a descriptor table sorted by shard id.

    set_aside: shards without a record, and why. parts: shards of which some entries were not read. unread: why entries
    were not read, those of packed shards without a record included.
    """

    files: pa.Table = field(default_factory=manifests.DESCRIPTORS.empty_table)
    set_aside: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    unread: Reasons = field(default_factory=Reasons)
    stats: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> pa.Array:
        """Ids of the shards that have entries without a record."""
        return pa.array([*self.set_aside, *self.parts], pa.string())


def extract(
    task: ExtractTask, shards: Iterable[Shard], *, runner: Runner, reporter: Reporter, name: str, total: int
) -> Extracted:
    """Extract shards, or use their completion records. name: of the phase; total: how many shards there are.

    SightlineError after `task.max_read_errors` reads in a row that failed, without one that succeeded.
    """
    found, done = Extracted(), manifests.DescriptorRows()
    in_a_row = 0
    with reporter.phase(name, total) as progress:
        for outcome in runner.map(task, shards):
            found.stats = added(found.stats, {"busy_seconds": outcome.seconds, **outcome.stats})
            if outcome.value is None:
                _failed(outcome, found, reporter)
            else:
                done.append(outcome.value)
                _partly(outcome.item, outcome.value, found, reporter)
            in_a_row = _in_a_row(outcome, in_a_row)
            if in_a_row >= task.max_read_errors:
                raise SightlineError(_gone(task, in_a_row, found))
            progress.advance(outcome.value.seen if outcome.value else 0)
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
    return "; ".join(parts)


def _failed(outcome: Outcome[Shard, DescriptorFile], found: Extracted, reporter: Reporter) -> None:
    shard, error = outcome.item, outcome.error or ""
    found.set_aside[shard.id] = f"{shard.uri}: {error}"
    reporter.say(f"set aside: {shard.uri}: {error}")
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


def _in_a_row(outcome: Outcome[Shard, DescriptorFile], before: int) -> int:
    """Return how many reads have failed since the last one that succeeded."""
    if outcome.value is None:
        return before + len(outcome.item.entries) if outcome.unread else before
    unread = {path for path, _ in outcome.value.unread}
    failed = 0
    for entry in reversed(outcome.item.entries):
        if entry.path not in unread:
            break
        failed += 1
    return failed


def _gone(task: ExtractTask, count: int, found: Extracted) -> str:
    last = found.unread.listed()[0]
    return (
        f"{public_url(task.location)}: {count} reads in a row failed ({last.reason}, e.g. {last.example!r}); nothing "
        "is published; see that it is mounted and answers and run again (finished shards are not redone), or raise "
        "--max-read-errors"
    )
