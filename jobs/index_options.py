"""What an indexing run is, and what becomes of it, as values; see index.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from jobs.reasons import Reason
from jobs.recipe import RecipeOptions
from jobs.recipe_changes import Change
from jobs.runners import RunnerOptions
from pipeline.publish.failures import Failure
from pipeline.publish.leases import LeaseTimes
from pipeline.publish.packing import Packing
from pipeline.publish.plan import Plan
from pipeline.publish.recipe import Recipe
from pipeline.stages.computed import Computed
from pipeline.stages.describe import ExtractOptions
from pipeline.stages.train_index import TRAIN_BYTES
from pipeline.stages.unread import MAX_READ_ERRORS

Retrain = Literal["auto", "never", "always"]


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """A run, as a value. rows_per_index_shard bounds index shards; memory_bytes is the budget of a loaded index,
    train_bytes that of training one.

    retrain: auto trains anew the kinds that have drifted past a threshold, always all of them, never none.
    refit: fit whitening and codebook again, from a sample of what is there now; that is a new recipe.
    retry_rejected: try rejected images again, and containers that failed, whose reason contains this, "" for all.
    ignore_ctime: take local files of the size and modification time that they had as unchanged, unread.
    trial_seconds: how long a dry run tries real shards to estimate the rest; 0 leaves the estimate out.
    """

    source: str
    root: str
    recipe: RecipeOptions = field(default_factory=RecipeOptions)
    runner: RunnerOptions = field(default_factory=RunnerOptions)
    extract: ExtractOptions = field(default_factory=ExtractOptions)
    packing: Packing = field(default_factory=Packing)
    rows_per_index_shard: int = 2_000_000
    memory_bytes: int | None = None
    train_bytes: int = TRAIN_BYTES
    max_reject_rate: float | None = None
    max_removal_rate: float = 0.2
    max_failed_rate: float = 0.05
    max_read_errors: int = MAX_READ_ERRORS
    allow_empty: bool = False
    retry_rejected: str | None = None
    ignore_ctime: bool = False
    retrain: Retrain = "auto"
    refit: bool = False
    replace_source: bool = False
    dry_run: bool = False
    trial_seconds: float = 10.0
    lease: LeaseTimes = field(default_factory=LeaseTimes)


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What became of a run; `published` is False when nothing was new, on a dry run, and past a gate.

    past_gate: why a gate held publication back. reject_reasons: of the images that this run extracted. unread: why
    entries could not be read; unreadable: files and folders that could not be listed. The next run tries these again.
    skipped: files of the source that do not match, and pictures of formats that are not read in the containers that
    this run read; skipped_by: the same by suffix.

    set_aside: shards that are not indexed, and why; failures: those of them that are remembered, and tried again only
    when they change or retry_rejected says so.
    drifted: per index kind, in words, what no longer fits; retrained: kinds that this run trained anew for it.
    computed: what was trained and filled anew, and on which device.
    warnings: what is to be said of the fits' samples. changes: in what the recipe differs from the head's;
    extracted_again: images of the head that are described again for it.
    """

    snapshot: int | None
    published: bool
    recipe: Recipe
    plan: Plan
    images: dict[str, int]
    seconds: dict[str, float]
    skipped: int = 0
    skipped_by: dict[str, int] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    extracted_again: int = 0
    warnings: tuple[str, ...] = ()
    set_aside: dict[str, str] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    past_gate: str = ""
    reject_reasons: tuple[Reason, ...] = ()
    unread: tuple[Reason, ...] = ()
    unreadable: tuple[str, ...] = ()
    drifted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    retrained: tuple[str, ...] = ()
    stats: dict[str, float] = field(default_factory=dict)
    estimate: dict[str, Any] = field(default_factory=dict)
    computed: tuple[Computed, ...] = ()

    @property
    def exit_code(self) -> int:
        """0, or 4 when something could not be read, shards were set aside, or a gate held publication back."""
        return 4 if self.set_aside or self.past_gate or self.unread or self.unreadable else 0
