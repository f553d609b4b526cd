"""What a report tells from samples of what is stored: health of descriptors, near-duplicates, recall, sample queries.

A section that cannot be is the sentence that says why, in place of its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jobs.duplicates import Group, shown_groups, sizes_of
from jobs.pictures import Picture, Pictures
from jobs.progress import Reporter
from pipeline.evaluate import health, plots, sweep
from pipeline.evaluate.sample import live_images, stored_vectors
from pipeline.publish.lists import Lists
from pipeline.search.duplicates import CHUNK, groups
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.search.find import find
from pipeline.search.indexed import stored_query
from pipeline.search.query import Query

SEED = 0
VECTORS, SAMPLE_BYTES = 20_000, 256 << 20
"""Vectors in the sample, and bytes that they may take."""
LEAST = 32
"""So few vectors say nothing about their distribution."""
NEIGHBOURED = 10_000
"""Vectors of the sample among which neighbours are looked for."""
PAIRS = 50_000
GROUPED = 20_000
"""Images of a collection up to which near-duplicates are looked for: each asks for its neighbours."""
THRESHOLD, GROUPS_SHOWN, MEMBERS_SHOWN = 0.95, 8, 6
SWEPT = 100_000
"""Images up to which recall is measured: exact neighbours are found by comparing with each of them."""
QUERIES, DEPTH, RERANK, SECONDS = 100, 10, 100, 0.2
STEPS = (0.25, 0.5, 1, 2, 4)
"""Efforts that are tried, as multiples of the recipe's."""
HITS = 6

Why = str
"""A sentence on why a section is left out."""
Measured = tuple[str, str, sweep.Point]
"""An index kind, what its effort is called, and a setting of it."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """Of `vectors` vectors; the last values, of neighbours, are None for local descriptors. Plots by name."""

    vectors: int
    norm: tuple[float, float, float]
    dimensions: int
    effective: float
    axes_90: int
    cosine: float | None
    neighboured: int | None
    skewness: float | None
    never: float | None
    plots: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the plots."""
        return {name: value for name, value in asdict(self).items() if name != "plots"}


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """How many groups of how many images there are, and the largest."""

    threshold: float
    groups: int
    members: int
    shown: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Measured settings. queries asked for their `depth` nearest; approximate kinds with and without re-ranking."""

    queries: int
    depth: int
    rerank: int
    points: tuple[Measured, ...]
    plot: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A query and its best results."""

    query: Picture
    hits: tuple[Picture, ...]


def descriptor_health(index: SearchIndex, lists: Lists) -> Health | Why:
    """Measure a sample of stored vectors."""
    dim = max(1, index.dim)
    wanted = min(VECTORS, SAMPLE_BYTES // (4 * dim))
    drawn = (stored_vectors if index.is_local else live_images)(lists, wanted, SEED)
    if len(drawn) < LEAST:
        return f"Left out: {len(drawn)} vectors say too little; from {LEAST} on they are measured."
    vectors = index.stored.vectors(drawn.file, drawn.row)
    lengths, values = health.norms(vectors), health.spectrum(vectors)
    effective = health.effective_dimension(values)
    made = {"norms": plots.norms("norms", lengths)}
    if values.sum():
        made["spectrum"] = plots.spectrum("spectrum", values, effective)
    cosine = neighboured = skewness = never = None
    if not index.is_local:
        units = health.unit(vectors)
        chosen = np.sort(np.random.default_rng(SEED).permutation(len(units))[:NEIGHBOURED])
        near = health.neighbours(units[chosen])
        counts = near.occurrences
        cosine, neighboured = health.mean_cosine(units), len(chosen)
        skewness, never = health.skewness(counts), float((counts == 0).mean())
        made["likeness"] = plots.likeness("likeness", health.random_cosines(units, PAIRS, SEED), near.score[:, 0])
        made["occurrences"] = plots.occurrences("occurrences", counts, health.NEIGHBOURS)
    return Health(
        vectors=len(vectors),
        norm=(float(lengths.min()), float(np.median(lengths)), float(lengths.max())),
        dimensions=vectors.shape[1],
        effective=effective,
        axes_90=health.axes_for(values, 0.9),
        cosine=cosine,
        neighboured=neighboured,
        skewness=skewness,
        never=never,
        plots=made,
    )


def near_duplicates(index: SearchIndex, pictures: Pictures, reporter: Reporter) -> Duplicates | Why:
    """Group the near-duplicates of a collection that is not too large for a report."""
    if index.is_local:
        return "Left out: near-duplicates are found by one vector per image, and these descriptors are local."
    if not index.kinds:
        return "Left out: the snapshot has no index to ask for neighbours."
    if index.images > GROUPED:
        return (
            f"Left out beyond {GROUPED:,} images: `sightline duplicates ROOT --page duplicates.html` looks at all "
            f"{index.images:,}."
        )
    with reporter.phase("duplicates", -(-index.images // CHUNK), "chunks") as phase:
        found = groups(index, THRESHOLD, told=phase.advance)
    shown = shown_groups(index, found, pictures, shown=GROUPS_SHOWN, members=MEMBERS_SHOWN)
    sizes = sizes_of(found)
    return Duplicates(threshold=THRESHOLD, groups=len(sizes), members=len(found.member), shown=tuple(shown))


def recall_curves(index: SearchIndex, reporter: Reporter) -> Curves | Why:
    """Measure recall and latency of every index kind, at some efforts, with and without re-ranking."""
    if index.is_local:
        return "Left out: recall is measured by one vector per image, and these descriptors are local."
    if index.images < 2 or not index.kinds:
        return "Left out: there are no neighbours to find, or no index to find them with."
    if index.images > SWEPT:
        return f"Left out beyond {SWEPT:,} images, as every vector is read for exact neighbours: see `sightline sweep`."
    asked = sweep.questions(index, k=DEPTH, count=QUERIES, seed=SEED)
    settings = list(_settings(index))
    points = []
    with reporter.phase("recall", len(settings), "settings") as phase:
        for kind, effort, rerank in settings:
            point = sweep.measure(index, asked, kind, effort, rerank, SECONDS)
            points.append((kind, index.spec(kind).effort, point))
            phase.advance()
    return Curves(
        queries=len(asked.queries),
        depth=asked.k,
        rerank=RERANK,
        points=tuple(points),
        plot=plots.curves("curves", _lines(index, points), asked.k),
    )


def _lines(index: SearchIndex, points: Sequence[Measured]) -> list[plots.Curve]:
    """Return a line for each kind and depth of re-ranking."""
    lines = []
    for kind in index.kinds:
        spec = sweep.resolved(index, kind)
        own = getattr(spec, spec.effort) if spec.effort else None
        for rerank in (0, RERANK):
            mine = [point for of, _, point in points if of == kind and point.rerank == rerank]
            if mine:
                curve = plots.Curve(
                    kind=kind,
                    exact=spec.exact or bool(rerank),
                    seconds=[point.p50 for point in mine],
                    recall=[point.recall for point in mine],
                    own=next((place for place, point in enumerate(mine) if own and point.effort == own), None),
                )
                lines.append(curve)
    return lines


def _settings(index: SearchIndex) -> Iterator[tuple[str, int | None, int]]:
    """Yield (kind, effort, rerank): efforts around the recipe's, of kinds that have any."""
    for kind in index.kinds:
        spec = sweep.resolved(index, kind)
        base = getattr(spec, spec.effort) if spec.effort else None
        most = getattr(spec, "nlist", None) if spec.effort == "nprobe" else None
        tried = {max(1, round(step * base)) for step in STEPS} if base else {None}
        efforts = sorted({min(effort, most or effort) for effort in tried if effort}) or [None]
        for rerank in (0,) if spec.exact else (0, RERANK):
            for effort in efforts:
                yield kind, effort, rerank


def drawn_queries(index: SearchIndex, lists: Lists, count: int, pictures: Pictures) -> Iterator[tuple[Picture, Query]]:
    """Yield images of the collection as queries, by what is stored of them."""
    drawn = live_images(lists, count, SEED + 1)
    names = index.stored.names(drawn.file, drawn.row)
    for name, file, row in zip(names, drawn.file.tolist(), drawn.row.tolist(), strict=True):
        query = stored_query(index, file, row)
        if len(query.batch.vectors):
            yield pictures.of(name.key, name.uri, size=query.whole), query


def answered(index: SearchIndex, query: tuple[Picture, Query], pictures: Pictures, *, own: bool) -> Asked:
    """Return a query with its best results; own: the query is an image of the collection, and no result."""
    shown, asked = query
    (hits,) = find(index, [asked], SearchOptions(k=HITS + own))
    others = [hit for hit in hits if not (own and hit.key == shown.key)][:HITS]
    return Asked(
        query=shown,
        hits=tuple(pictures.of(h.key, h.uri, score=h.score, size=(h.width, h.height)) for h in others),
    )
