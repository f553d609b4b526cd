"""`sightline report`: one page on the health of a ROOT, made of what was recorded and of seeded samples.

It reads and writes nothing but the page; what a section tells is made in report_facts.py and report_samples.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from jobs import page, report_facts, report_samples
from jobs._main import run_module
from jobs.output import notices
from jobs.pictures import Picture, Pictures, small
from jobs.progress import Reporter
from jobs.report_samples import Asked, Curves, Duplicates, Health
from jobs.status import status
from jobs.units import human_bytes
from pipeline.core.errors import BadImageError, UserError
from pipeline.core.names import public_url
from pipeline.core.storage import open_store
from pipeline.core.types import Image, Shard
from pipeline.evaluate import plots
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists, load_lists
from pipeline.publish.snapshot import Snapshot
from pipeline.search.engine import SearchIndex
from pipeline.search.query import Query, QueryExtractor
from pipeline.sources.folder import Spec as FolderSpec
from pipeline.stages.device import choose_device

HISTORY = 20


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """out: a .html file, local or s3://. queries: folder of images to ask with; "" takes images of the collection.

    samples: queries that are shown.
    """

    root: str
    out: str = "report.html"
    queries: str = ""
    samples: int = 8
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The sections made of samples; a sentence for one that is left out."""

    health: Health | str
    duplicates: Duplicates | str
    curves: Curves | str
    asked: list[Asked] | str


def report(options: ReportOptions, reporter: Reporter) -> dict[str, Any]:
    """Return what the page says in numbers: {"snapshot", "out", "bytes", "images", "health", ..., "left_out"}."""
    # Without it nothing could be drawn, which is better said before an hour of work than after it.
    plots.available()
    state = status(options.root, HISTORY)
    catalog = Catalog(open_store(options.root))
    with SearchIndex.open(options.root, state["snapshot"]) as index:
        snapshot = index.snapshot
        lists = load_lists(catalog, snapshot)
        pictures = Pictures(snapshot, index.row)
        sampled = _sampled(options, index, lists, pictures, reporter)
        rejects = report_facts.rejects(catalog, lists, pictures)
    runs = report_facts.runs(_history(catalog))
    indexes = list(report_facts.index_facts(catalog, snapshot, lists))
    text = page.render(
        "report.html",
        state=state,
        words=report_facts.recipe_words(snapshot, index.dim if state["images"] else 0),
        sizes={"descriptors": state["descriptors"]["bytes"], "indexes": sum(kind.bytes for kind in indexes)},
        rejects=rejects,
        runs=runs,
        phases=report_facts.phases_plot(runs) if runs else "",
        sampled=sampled,
        indexes=indexes,
        growth=_growth(state["history"]),
        notices=[*notices(state["descriptor"]), *([pictures.note] if pictures.note else [])],
        drawn=Markup,
    )
    return {**_told(state, sampled), "out": options.out, "bytes": page.write(options.out, text)}


def _history(catalog: Catalog) -> list[Snapshot]:
    """Return the last snapshots whose records are there, expired ones too: their runs took place."""
    return [catalog.load(version) for version in catalog.versions()[-HISTORY:]]


def _sampled(
    options: ReportOptions, index: SearchIndex, lists: Lists, pictures: Pictures, reporter: Reporter
) -> Sampled:
    if not index.images:
        nothing = "Left out: the snapshot holds no images."
        return Sampled(health=nothing, duplicates=nothing, curves=nothing, asked=nothing)
    with reporter.phase("health"):
        health = report_samples.descriptor_health(index, lists)
    return Sampled(
        health=health,
        duplicates=report_samples.near_duplicates(index, pictures, reporter),
        curves=report_samples.recall_curves(index, reporter),
        asked=_asked(options, index, lists, pictures, reporter),
    )


def _asked(
    options: ReportOptions, index: SearchIndex, lists: Lists, pictures: Pictures, reporter: Reporter
) -> list[Asked] | str:
    if not options.samples:
        return "Left out, as asked for."
    if not index.kinds:
        return "Left out: the snapshot has no index to ask."
    if options.queries:
        queries = _from_folder(options, index)
    else:
        queries = report_samples.drawn_queries(index, lists, options.samples, pictures)
    found = []
    with reporter.phase("queries", options.samples, "queries") as phase:
        for query in queries:
            found.append(report_samples.answered(index, query, pictures, own=not options.queries))
            phase.advance(1)
    return found


def _from_folder(options: ReportOptions, index: SearchIndex) -> Iterator[tuple[Picture, Query]]:
    """Yield images of the folder of queries, drawn by a seed; UserError for a folder without any, or a bad image."""
    shown = public_url(options.queries)
    source = FolderSpec().open(options.queries)
    entries = list(source.listing())
    if not entries:
        raise UserError(shown, "holds no images", "name a folder of query images")
    extractor = QueryExtractor(open_store(options.root), index.snapshot.recipe, choose_device(options.device))
    chosen = np.sort(np.random.default_rng(report_samples.SEED).permutation(len(entries))[: options.samples])
    for place in chosen.tolist():
        entry = entries[place]
        for item in source.images(Shard(id="", uri=shown, bytes=entry.size, etag="", entries=(entry,))):
            if not isinstance(item, Image):
                raise UserError(item.uri, item.reason, "check the query folder")
            query = extractor.describe(item.data, item.uri)
            try:
                data = small(item.data)
            except BadImageError:
                data = ""
            yield Picture(key=item.key, data=data, width=query.width, height=query.height), query


def _growth(history: list[dict[str, Any]]) -> str:
    if len(history) < 2:
        return ""
    return plots.growth("growth", [row["snapshot"] for row in history], [row["images"] for row in history])


def _told(state: dict[str, Any], sampled: Sampled) -> dict[str, Any]:
    """Return the JSON of a report without its file."""
    sections = vars(sampled)
    body: dict[str, Any] = {name: state[name] for name in ("snapshot", "images", "seen", "rejected")}
    if isinstance(sampled.health, Health):
        body["health"] = sampled.health.to_json()
    if isinstance(sampled.duplicates, Duplicates):
        body["duplicates"] = {"groups": sampled.duplicates.groups, "members": sampled.duplicates.members}
    if isinstance(sampled.curves, Curves):
        body["recall"] = [{"index": kind, **vars(point)} for kind, _, point in sampled.curves.points]
    return {**body, "left_out": {name: why for name, why in sections.items() if isinstance(why, str)}}


def lines(data: dict[str, Any]) -> list[str]:
    """Return a report in words: where it is, and the numbers that it begins with."""
    size = human_bytes(data["bytes"])
    found = [f"report on snapshot {data['snapshot']}, {data['images']} images: {data['out']} ({size})"]
    if "health" in data:
        told = data["health"]
        found.append(f"  effective dimension {told['effective']:.1f} of {told['dimensions']}")
        if told["skewness"] is not None:
            found[-1] += f", hubness {told['skewness']:.2f}, mean cosine {told['cosine']:.2f}"
    if "duplicates" in data:
        groups, members = (data["duplicates"][name] for name in ("groups", "members"))
        found.append(f"  {groups} groups of near-duplicates, {members} images in all")
    return [*found, *(f"  {name}: {why}" for name, why in data["left_out"].items())]


if __name__ == "__main__":
    run_module("report")
