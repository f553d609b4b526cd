"""What a report tells from what was recorded: contents, rejects, runs, indexes. No descriptor is read here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from jobs.pictures import Picture, Pictures
from pipeline.core import staging
from pipeline.core.stats import category, devices
from pipeline.core.types import Ints
from pipeline.evaluate import plots
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Fitness, Snapshot
from pipeline.rejects import read_rejects
from pipeline.stages.drift import LEAST
from pipeline.stages.kinds import extract_spec, index_specs

REJECT_FILES = 64
"""Lists of rejects that are read, one per shard that has any."""
REASONS, EXAMPLES = 12, 4
RUNS = 8
LIST_BYTES = 1 << 30
"""Index shards are read for the sizes of their lists up to this much."""
PHASES = ("plan", "sample", "codebook", "whiten", "extract", "train", "fill", "drift", "rewrite", "merge")
"""Phases of runs in the order they follow one another."""
MEASURES = {
    "imbalance": "imbalance of lists (1 is even)",
    "empty_lists": "share of empty lists",
    "quantisation_error": "quantisation error",
    "recall@10": "recall@10 of a sample, not re-ranked",
}


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Images of one reason, and the first of them; with a picture where they can be decoded after all."""

    reason: str
    count: int
    examples: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Rejects:
    """Reasons, the commonest first; read of all shards that have rejects, so many were looked at."""

    reasons: tuple[Reason, ...]
    shards: int
    read: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """One publication's run. seconds of all its phases; the others are None where nothing was extracted.

    device: what its shards were described on, "" where that is not known.
    """

    version: int
    operation: str
    seconds: dict[str, float]
    added: int
    images_per_second: float | None
    bytes_per_second: float | None
    idle: float | None
    retries: int | None
    set_aside: int
    device: str = ""

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())


@dataclass(frozen=True, kw_only=True)
class IndexFacts:
    """One index kind. measures: what it is, its value at training, its value now. plot: of its lists, "" for none."""

    kind: str
    shards: int
    rows: int
    bytes: int
    trained_on: int | None
    measures: tuple[tuple[str, float | None, float], ...]
    drift: str
    lists: Ints
    lists_of: str
    plot: str

    @property
    def imbalance(self) -> float:
        """nlist Σ (nᵢ/n)²: 1 when lists are equal."""
        return float(len(self.lists) * ((self.lists / max(1, self.lists.sum())) ** 2).sum())


def recipe_words(snapshot: Snapshot, dim: int) -> list[tuple[str, str]]:
    """Return how descriptors were made, as terms and their descriptions."""
    recipe = snapshot.recipe
    settings = {k: v for k, v in extract_spec(recipe).to_json().items() if isinstance(v, str | int | float | list)}
    for named_elsewhere in ("kind", "origin"):
        settings.pop(named_elsewhere, None)
    found = [
        ("Source", f"{recipe.source.kind}, {snapshot.source}"),
        ("Descriptor", snapshot.summary.origin or extract_spec(recipe).label),
        ("Settings", ", ".join(f"{name} {_plain(value)}" for name, value in settings.items()) or "defaults"),
    ]
    if recipe.encode is not None:
        found.append(("Encoding", f"{recipe.encode.method} over {recipe.encode.words} words"))
    found.append(("Whitening", _whitening(recipe)))
    if dim:
        found.append(("Stored as", f"{dim:,} dimensions, {recipe.dtype}"))
    kinds = [" ".join(_plain(value) for value in spec.to_json().values()) for spec in recipe.indexes]
    found.append(("Indexes", ", ".join(kinds) or "none"))
    found.append(("Recipe", recipe.fingerprint[:12]))
    return found


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _whitening(recipe: Recipe) -> str:
    if recipe.whiten is None:
        return "none"
    if recipe.whiten.method == "file":
        return "from a file"
    kept = f"{recipe.whiten.dims} axes" if recipe.whiten.dims else "every axis that has variance"
    return f"PCA, {kept}, eigenvalues to the power of {recipe.whiten.power:g}"


def stored_bytes(lists: Lists) -> int:
    """Return the size of all descriptor files."""
    return int(pc.sum(pc.struct_field(lists.descriptors["artifact"], "bytes")).as_py() or 0)


def rejects(catalog: Catalog, lists: Lists, pictures: Pictures) -> Rejects:
    """Count reasons in the lists of rejects, and look for pictures of a few."""
    artifacts = manifests.artifact_column(lists.descriptors, "rejects")
    counts: dict[str, int] = {}
    examples: dict[str, list[tuple[str, str]]] = {}
    with staging.folder("rejects-") as folder:
        for artifact in artifacts[:REJECT_FILES]:
            for reject in read_rejects(catalog.fetch(artifact, Path(folder))):
                if reject.status == "rejected":
                    reason = category(reject.reason)
                    counts[reason] = counts.get(reason, 0) + 1
                    named = examples.setdefault(reason, [])
                    if len(named) < EXAMPLES:
                        named.append((reject.key, reject.uri))
    commonest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:REASONS]
    found = tuple(
        Reason(reason=reason, count=count, examples=tuple(pictures.of_reject(*name) for name in examples[reason]))
        for reason, count in commonest
    )
    return Rejects(reasons=found, shards=len(artifacts), read=min(len(artifacts), REJECT_FILES))


def runs(snapshots: Sequence[Snapshot]) -> list[Run]:
    """Return the last runs that took time, the newest first."""
    return [_run(snapshot) for snapshot in reversed(snapshots) if sum(snapshot.summary.seconds.values())][:RUNS]


def _run(snapshot: Snapshot) -> Run:
    summary = snapshot.summary
    # The sample of a fit is extracted by itself, and taken up afterwards.
    stats, extract = summary.stats, sum(summary.seconds.get(phase, 0.0) for phase in ("sample", "extract"))
    worked = bool(extract and stats.get("images"))
    return Run(
        version=snapshot.version,
        operation=snapshot.operation,
        seconds=dict(summary.seconds),
        added=summary.added,
        images_per_second=stats["images"] / extract if worked else None,
        bytes_per_second=stats.get("bytes", 0.0) / extract if worked else None,
        idle=stats.get("idle_share") if worked else None,
        retries=int(stats.get("retries", 0)) if worked else None,
        set_aside=len(summary.set_aside),
        device=", ".join(devices(stats)),
    )


def phases_plot(found: Sequence[Run]) -> str:
    """Return the phases of runs as a plot."""
    return plots.phases("phases", [(f"{run.version} {run.operation}", run.seconds) for run in found], PHASES)


def index_facts(catalog: Catalog, snapshot: Snapshot, lists: Lists) -> Iterator[IndexFacts]:
    """Yield what is known of each index kind of a snapshot, in the order of its recipe."""
    shards = manifests.index_shards(lists.indexes)
    fitness = {fit.kind: fit for fit in snapshot.fitness}
    for spec in index_specs(snapshot.recipe):
        mine = [shard for shard in shards if shard.kind == spec.kind]
        sizes, read = np.zeros(0, np.int64), 0
        with staging.folder("lists-") as folder:
            budget = LIST_BYTES
            for shard in mine:
                if shard.artifact.bytes > budget or (read and not len(sizes)):
                    break
                budget, read = budget - shard.artifact.bytes, read + 1
                held = spec.list_sizes(catalog.fetch(shard.artifact, Path(folder)))
                sizes = held if not len(sizes) else sizes + held
        fit = fitness.get(spec.kind)
        yield IndexFacts(
            kind=spec.kind,
            shards=len(mine),
            rows=sum(shard.rows for shard in mine),
            bytes=sum(shard.artifact.bytes for shard in mine),
            trained_on=fit.trained.rows if fit is not None else None,
            measures=_measures(fit),
            drift=_drift(fit),
            lists=sizes,
            lists_of=f"{read} of {len(mine)} index shards" if read < len(mine) else "",
            plot=plots.lists(f"lists-{spec.kind}", spec.kind, sizes) if sizes.any() else "",
        )


def _measures(fit: Fitness | None) -> tuple[tuple[str, float | None, float], ...]:
    if fit is None:
        return ()
    then = fit.trained.values
    return tuple((MEASURES.get(name, name), then.get(name), value) for name, value in fit.now.values.items())


def _drift(fit: Fitness | None) -> str:
    if fit is None:
        return "Needs no training."
    if fit.drifted:
        return f"Has drifted: {'; '.join(fit.drifted)}. `sightline index --retrain auto` trains it anew."
    if not fit.now.values:
        return f"Too few live vectors to say how well it fits; from {LEAST} on it is measured at every run."
    return "Fits as it did at training."
