"""`sightline sweep`: recall of an index against its latency, and the fastest setting that is good enough."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs._main import run_module
from jobs.progress import Reporter
from jobs.sweep_plot import FORMS, draw
from pipeline.core.errors import UserError
from pipeline.core.storage import open_store, split_location
from pipeline.evaluate.settings import Goal
from pipeline.evaluate.sweep import Point, questions
from pipeline.evaluate.tuning import tune
from pipeline.index import IndexSpec
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from pipeline.publish.snapshot import Snapshot
from pipeline.search.engine import SearchIndex


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Which ROOT and index kind ("" for the snapshot's best approximate one), by how many queries, to which recall@k.

    plot: a .svg or .png file, local or s3://; "" draws none. version: the snapshot, None for the latest.
    """

    root: str
    index: str = ""
    k: int = 10
    queries: int = 1000
    seed: int = 0
    goal: Goal = field(default_factory=Goal)
    plot: str = ""
    version: int | None = None


def sweep(options: SweepOptions, reporter: Reporter) -> dict[str, Any]:
    """Return {"snapshot", "index", "effort", "k", "queries", "target", "points", "usual", "found", "limits"}."""
    if options.plot and not options.plot.endswith(FORMS):
        raise UserError(f"--plot {options.plot}", "is no picture", f"name a file that ends in {' or '.join(FORMS)}")
    with SearchIndex.open(options.root, options.version) as index:
        kind = options.index or next((name for name in index.kinds if not index.spec(name).exact), "")
        spec = index.spec(kind)
        if options.goal.efforts and not spec.effort:
            raise UserError("--effort", f"is nothing that {spec.kind} has", "leave it out")
        with reporter.phase("exact neighbours"):
            asked = questions(index, k=options.k, count=options.queries, seed=options.seed)
        named = {"effort": spec.effort, "k": options.k}
        with reporter.phase("measure", None, "settings") as phase:

            def hear(point: Point) -> None:
                phase.advance()
                reporter.say(_said(named, as_json(point)))

            size = row_bytes(Catalog(open_store(options.root)), index.snapshot, spec)
            found = tune(index, asked, spec.kind, replace(options.goal, row_bytes=size), hear)
        data = {
            "snapshot": index.snapshot.version,
            "index": spec.kind,
            "effort": spec.effort or None,
            "images": index.images,
            "dimensions": index.dim,
            "k": options.k,
            "queries": len(asked.queries),
            "seed": options.seed,
            "target": options.goal.target,
            "max_bytes": options.goal.max_bytes,
            "points": [as_json(point) for point in found.points],
            "usual": as_json(found.usual),
            "found": None if found.best is None else as_json(found.best),
            "limits": list(found.limits),
        }
    if options.plot:
        store, name = split_location(options.plot)
        store.write(name, draw(data, options.plot.rpartition(".")[2]))
    return data


def row_bytes(catalog: Catalog, snapshot: Snapshot, spec: IndexSpec) -> int | None:
    """Return what a vector takes in the published index shards of a kind, None where it has none."""
    shards = manifests.index_shards(load_lists(catalog, snapshot).indexes)
    mine = [shard for shard in shards if shard.fingerprint == snapshot.recipe.index_id(spec)]
    rows = sum(shard.rows for shard in mine)
    return round(sum(shard.artifact.bytes - shard.trained.bytes for shard in mine) / rows) if rows else None


def as_json(point: Point) -> dict[str, Any]:
    """Return a point with its times in milliseconds."""
    return {
        "effort": point.effort,
        "rerank": point.rerank,
        "recall": point.recall,
        "p50_ms": 1000 * point.p50,
        "p99_ms": 1000 * point.p99,
        "queries_per_second": point.queries_per_second,
        "bytes": point.bytes,
    }


def _said(data: dict[str, Any], point: dict[str, Any]) -> str:
    effort = f"{data['effort']} {point['effort']}, " if point["effort"] is not None else ""
    return (
        f"{effort}{point['rerank']} re-ranked: recall@{data['k']} {point['recall']:.4f}, {point['p50_ms']:.2f} ms "
        f"(p99 {point['p99_ms']:.2f} ms), {point['bytes']} bytes per vector"
    )


def lines(data: dict[str, Any]) -> list[str]:
    """Return what was found in words, or why nothing was."""
    wanted = f"recall@{data['k']} of {data['target']:g} at {data['max_bytes']} bytes per vector or less"
    rows = [f"now    {_said(data, data['usual'])}"]
    if data["found"] is None:
        rows.append(f"found  no setting that has {wanted}")
        return rows + [f"       {limit}" for limit in data["limits"]]
    found = data["found"]
    asked = (f"--effort {found['effort']} " if found["effort"] is not None else "") + f"--rerank {found['rerank']}"
    rows += [f"found  {_said(data, found)}", f"       the fastest measured that has {wanted}: query with {asked}"]
    return rows


def print_table(data: dict[str, Any]) -> None:
    """Print all settings that were measured; the one that was found is marked."""
    console = Console(highlight=False, soft_wrap=True)
    title = (
        f"{data['index']}, snapshot {data['snapshot']}: {data['images']} images of {data['dimensions']} dimensions, "
        f"{data['queries']} queries"
    )
    table = Table(title=title, title_justify="left")
    for name in (data["effort"], "re-ranked", f"recall@{data['k']}", "p50, ms", "p99, ms", "queries/s", "bytes"):
        if name:
            table.add_column(name, justify="right")
    for point in data["points"]:
        cells = [
            *([str(point["effort"])] if data["effort"] else []),
            str(point["rerank"]),
            f"{point['recall']:.4f}",
            f"{point['p50_ms']:.2f}",
            f"{point['p99_ms']:.2f}",
            f"{point['queries_per_second']:.0f}",
            str(point["bytes"]),
        ]
        table.add_row(*cells, style="bold green" if point == data["found"] else None)
    console.print(table)
    for line in lines(data):
        console.print(line, markup=False)


if __name__ == "__main__":
    run_module("sweep")
