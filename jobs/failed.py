"""Containers that are known to fail: left alone, tried again when that is asked for or they change, and reported.

What is remembered has been through the gate of failed shards, and does not count there again: three corrupt archives
of a thousand hold no later run back. A run that the gate stops, or that is killed, remembers nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jobs.progress import Reporter
from jobs.reasons import SHOWN, Reasons
from pipeline.core.errors import StoreError
from pipeline.core.stats import category
from pipeline.core.types import Shard
from pipeline.publish.catalog import Catalog
from pipeline.publish.failures import Failure, failure_of, forget, remember, remembered
from pipeline.publish.plan import Plan
from pipeline.publish.recipe import Recipe

_SIDE_BY_SIDE = 8
CURE = "mend or remove the file, or try it again with --retry-rejected"


@dataclass(frozen=True, kw_only=True)
class Failed:
    """What is known of a plan's containers, by shard id. left: not tried by this run. again: tried again, as asked for.

    forgotten: shards whose records count for nothing, and go before the run tries them.
    """

    left: Mapping[str, Failure] = field(default_factory=dict)
    again: Mapping[str, Failure] = field(default_factory=dict)
    forgotten: tuple[str, ...] = ()


def known_failures(catalog: Catalog, recipe: Recipe, plan: Plan, retry: str | None) -> Failed:
    """Return what earlier runs remembered. retry: see Published."""
    found, invalid = remembered(catalog, recipe, plan)
    again = {shard: failure for shard, failure in found.items() if retry is not None and _has(failure, retry)}
    left = {shard: failure for shard, failure in found.items() if shard not in again}
    return Failed(left=left, again=again, forgotten=tuple(sorted([*invalid, *again])))


def _has(failure: Failure, reason: str) -> bool:
    wanted = reason.casefold()
    return wanted in failure.reason.casefold() or wanted == category(failure.reason).casefold()


def withdraw_failures(catalog: Catalog, recipe: Recipe, failed: Failed) -> None:
    """Delete the records of what is about to be tried, so that none outlives a try that succeeds."""
    forget(catalog, recipe, failed.forgotten)


def remember_failures(
    catalog: Catalog, recipe: Recipe, failed: Failed, corrupt: Iterable[tuple[Shard, str]], reporter: Reporter
) -> tuple[Failure, ...]:
    """Record what failed in a run; return what is recorded. Where ROOT refuses it, the next run tries these again."""
    now = datetime.now(UTC).isoformat(timespec="seconds")

    def recorded(item: tuple[Shard, str]) -> Failure | None:
        shard, reason = item
        before = failed.again.get(shard.id)
        failure = before.again(reason) if before is not None else failure_of(shard, reason, now)
        try:
            remember(catalog, recipe, failure)
        except StoreError as error:
            # What the run was for is published, and nothing depends on this.
            reporter.say(f"warning: it could not be recorded that {failure.path} fails: {error}")
            return None
        return failure

    with ThreadPoolExecutor(_SIDE_BY_SIDE, "failures") as pool:
        return tuple(failure for failure in pool.map(recorded, corrupt) if failure is not None)


def lines(failures: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return failures, in the form of their JSON, in words: by reason, with how many and the first of each."""
    counted = Reasons()
    since: dict[str, str] = {}
    for failure in failures:
        counted.add(failure["reason"], failure["path"])
        name = category(failure["reason"])
        since[name] = min(failure["since"], since.get(name, failure["since"]))
    told = [f"failed shards: {reason}, since {since[reason.reason]}; {CURE}" for reason in counted.listed()[:SHOWN]]
    more = sum(reason.count for reason in counted.listed()[SHOWN:])
    return [*told, *([f"failed shards: {more} for other reasons"] if more else [])]


def set_aside_line(failure: Failure) -> str:
    """Return why a container is not indexed."""
    return f"{failure.path}: {failure.reason} (remembered since {failure.since}; {CURE})"


def as_json(failures: Iterable[Failure]) -> list[dict[str, Any]]:
    """Return failures as plain JSON types."""
    return [failure.model_dump(include={"shard_id", "path", "reason", "since", "attempts"}) for failure in failures]
