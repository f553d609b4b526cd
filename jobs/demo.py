"""`make demo`: the whole of Sightline on a collection that it draws itself. Offline, on local Ray, in a few minutes.

Scenes are drawn, photographs that installed packages ship are seen from elsewhere, and both are packed into tar shards,
indexed and published; two shards are added, one image is taken away; then queries are asked and scored, beside what
their colours alone find, and demo/index.html shows them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.demo_page import DemoPage, Row, Step, thumbnail, write_page
from jobs.demo_shards import (
    FIRST_SCENES,
    SCENES,
    SEED,
    VIEWS,
    TarItem,
    chance_map,
    draw,
    photograph_items,
    photograph_scenes,
    relevant_keys,
    split_last,
    tar_items,
)
from jobs.evaluate import EvaluateOptions, evaluate
from jobs.index import IndexOptions, IndexReport, run_index
from jobs.progress import Reporter
from jobs.query import QueryOptions, query
from jobs.recipe import RecipeOptions
from jobs.runners import RunnerOptions, open_runner
from jobs.scene_views import member_name, view_bytes, write_queries
from pipeline.core.errors import SightlineError
from pipeline.search.engine import SearchIndex, SearchOptions

POOLING, RESIZE, DIMS = "raac", "longest:384", 256
BASELINE = RecipeOptions(recipe="hsv-histogram", indexes=("flat",))
"""What colours alone find."""
SHOWN, SHOWN_PHOTOGRAPHS = 14, 7
RAY = RunnerOptions(kind="ray", workers=2)


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """The recipe of the demo and what must honestly be said about it."""

    recipe: RecipeOptions
    flags: str
    honest: str


def choose(weights: str | None) -> Descriptor:
    """Return the demo's recipe: the default backbone with its packaged weights, or with those that are named."""
    recipe = RecipeOptions(weights=weights, pooling=POOLING, resize=RESIZE, whiten="pca", dims=DIMS)
    named = f" --weights {weights}" if weights else ""
    flags = f"--pooling {POOLING} --resize {RESIZE} --whiten pca --dims {DIMS}{named}"
    honest = "Weights trained on ImageNet, as the installed package ships them; whitening learned on the collection."
    if weights:
        honest = f"Weights of {weights}; whitening learned on the collection."
    return Descriptor(recipe=recipe, flags=flags, honest=honest)


def run_demo(folder: Path, weights: str | None, reporter: Reporter) -> DemoPage:
    """Run everything below `folder`, which is made anew; return the page's content, also written there."""
    started = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    source, root = folder / "shards", folder / "root"
    runner = open_runner(RAY)
    try:
        descriptor = choose(weights)
        options = IndexOptions(source=str(source), root=str(root), recipe=descriptor.recipe)
        command = f"sightline index {source} {root} --runner ray {descriptor.flags}"
        views = range(1, VIEWS + 1)
        first = tar_items(source, SEED, range(FIRST_SCENES), views)
        draw([*first, *photograph_items(source, views)], runner, reporter, "draw")
        steps = [Step(command=command, outcome=told(run_index(options, Reporter(), runner)))]
        draw(tar_items(source, SEED, range(FIRST_SCENES, SCENES), views), runner, reporter, "draw")
        split_last(source)
        again = f"sightline index {source} {root} --runner ray"
        steps.append(Step(command=f"{again}   # two new shards", outcome=told(run_index(options, Reporter(), runner))))
        removed = (0, VIEWS)
        kept = tuple(pair for pair in first[0].views if pair != removed)
        draw([TarItem(path=first[0].path, seed=SEED, views=kept)], runner, reporter, "draw")
        steps.append(
            Step(command=f"{again}   # one image taken out", outcome=told(run_index(options, Reporter(), runner)))
        )
        colours = IndexOptions(source=str(source), root=str(folder / "colours"), recipe=BASELINE)
        run_index(colours, Reporter(), runner)
    finally:
        runner.close()
    return score_and_show(folder, descriptor, steps, removed, (started, reporter))


def told(report: IndexReport) -> str:
    """Return an indexing run in a sentence."""
    images = report.images
    return (
        f"Snapshot {report.snapshot}: {images['indexed']} images, {images['added']} extracted, "
        f"{images['removed']} dropped, in {sum(report.seconds.values()):.1f} s."
    )


def score_and_show(
    folder: Path, descriptor: Descriptor, steps: list[Step], removed: tuple[int, int], run: tuple[float, Reporter]
) -> DemoPage:
    """Evaluate every index kind, query a few scenes, write the page."""
    started, reporter = run
    root, queries = folder / "root", folder / "queries"
    relevant = relevant_keys(removed)
    truth = write_queries(queries, SEED, relevant, relevant)

    def scored(where: Path, kind: str) -> dict[str, Any]:
        ask = EvaluateOptions(root=str(where), queries=str(queries), ground_truth=str(truth), index=kind, rerank=60)
        return evaluate(ask, reporter)

    scores = {kind: scored(root, kind) for kind in ("flat", "ivfpq", "lsh")}
    colours = scored(folder / "colours", "flat")
    steps.append(
        Step(
            command=f"sightline evaluate {root} --queries {queries} --ground-truth {truth}",
            outcome=f"mAP {scores['flat']['mAP']:.3f} over {scores['flat']['queries']} queries.",
        )
    )
    with SearchIndex.open(str(root)) as index:
        images, snapshot = index.images, index.snapshot
    page = DemoPage(
        images=images,
        scenes=SCENES,
        photographs=len(photograph_scenes()),
        views=VIEWS,
        snapshot=snapshot.version,
        descriptor=snapshot.summary.origin,
        honest=descriptor.honest,
        mean_average_precision=scores["flat"]["mAP"],
        precision_at_1=scores["flat"]["P@1"],
        chance=chance_map(images, VIEWS),
        colours=colours["mAP"],
        approximate=[(kind, scores[kind]["mAP"]) for kind in ("ivfpq", "lsh")],
        seconds=time.perf_counter() - started,
        steps=steps,
        rows=list(shown_rows(root, queries, relevant)),
    )
    write_page(folder / "index.html", page)
    return page


def shown_rows(root: Path, queries: Path, relevant: dict[int, list[str]]) -> Iterable[Row]:
    """Ask some scenes of every family and return the pictures; wrong results are shown as they come."""
    drawn = [int(scene) for scene in np.linspace(0, SCENES - 1, SHOWN - len(photograph_scenes()[:SHOWN_PHOTOGRAPHS]))]
    scenes = [*photograph_scenes()[:SHOWN_PHOTOGRAPHS], *drawn]
    names = [member_name(scene, 0) for scene in scenes]
    answer = query(
        QueryOptions(
            root=str(root),
            images=[str(queries / name) for name in names],
            search=SearchOptions(k=VIEWS + 1, index="ivfpq"),
        )
    )
    views = {member_name(scene, view): (scene, view) for scene in relevant for view in range(1, VIEWS + 1)}
    for scene, name, result in zip(scenes, names, answer["results"], strict=True):
        hits = []
        for hit in result["hits"]:
            data = view_bytes(SEED, *views[hit["key"].rsplit("/", 1)[-1]])
            hits.append(thumbnail(data, hit["key"], hit["score"], hit["key"] in relevant[scene]))
        yield Row(query=thumbnail((queries / name).read_bytes(), name), hits=hits)


def main(arguments: Sequence[str]) -> int:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", help="weights of the default backbone in place of the packaged ones")
    parser.add_argument("--folder", default="demo", help="where everything goes; made anew (default: demo)")
    chosen = parser.parse_args(arguments)
    reporter = Reporter()
    try:
        page = run_demo(Path(chosen.folder), chosen.weights, reporter)
    except SightlineError as error:
        reporter.say(f"demo: {error}")
        return error.exit_code
    print(f"descriptor: {page.descriptor}")
    print(page.honest)
    for step in page.steps:
        print(f"$ {step.command}\n  {step.outcome}")
    approximate = ", ".join(f"{name} {value:.3f}" for name, value in page.approximate)
    print(
        f"mAP {page.mean_average_precision:.3f} (colour histogram {page.colours:.3f}, chance {page.chance:.3f}), "
        f"P@1 {page.precision_at_1:.3f}; "
        f"mAP with {approximate}"
    )
    print(
        f"{page.images} images in snapshot {page.snapshot}, {page.seconds:.0f} s in all; "
        f"open {chosen.folder}/index.html"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
