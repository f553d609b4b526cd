"""`make demo`: the whole of Sightline on a collection that it draws itself. Offline, on local Ray, in a few minutes.

Scenes are drawn and packed into tar shards, indexed and published; two shards are added, one image is taken away; then
queries are asked and scored, and demo/index.html shows them. Pretrained weights are used when they are at hand;
otherwise a random network with whitening learned from other generated scenes, and every output says so.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from jobs.demo_page import DemoPage, Row, Step, thumbnail, write_page
from jobs.demo_shards import (
    FIRST_SCENES,
    SCENES,
    SCENES_PER_SHARD,
    SEED,
    VIEWS,
    TarItem,
    chance_map,
    draw,
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
from pipeline.core.types import Floats
from pipeline.features.backbones import imagenet_cached
from pipeline.run.base import Runner
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.table import DescriptorReader
from pipeline.whiten import fit_supervised

TRAINING_SEED, TRAINING_SCENES, TRAINING_VIEWS = 1001, 300, 4
TRAINING_PAIR_DIMS, SUBSPACE = 128, 256
SHOWN = 12
RAY = RunnerOptions(kind="ray", workers=2)


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """The recipe of the demo and what must honestly be said about it."""

    recipe: RecipeOptions
    flags: str
    honest: str


def choose(weights: str | None, work: Path, runner: Runner, reporter: Reporter) -> Descriptor:
    """Return the pretrained recipe when its weights are at hand, else the offline one with a whitening learned here."""
    if weights is None and not imagenet_cached("mobilenet_v2"):
        reporter.say("no pretrained weights in torchvision's cache and none named by --weights: offline default")
        return learned(work, runner, reporter)
    named = weights or "imagenet"
    recipe = RecipeOptions(
        backbone="mobilenet_v2", weights=named, pooling="raac", resize="longest:256", whiten="pca", dims=256
    )
    flags = f"--weights {named} --pooling raac --resize longest:256 --whiten pca --dims 256"
    return Descriptor(recipe=recipe, flags=flags, honest=f"Pretrained weights ({named}), whitened on the collection.")


def learned(work: Path, runner: Runner, reporter: Reporter) -> Descriptor:
    """Learn a whitening for a random AlexNet from pairs of views of scenes that are not in the demo."""
    draw(
        tar_items(work / "training", TRAINING_SEED, range(TRAINING_SCENES), range(TRAINING_VIEWS)),
        runner,
        reporter,
        "draw",
    )
    raw = RecipeOptions(
        backbone="alexnet", weights="random:0", pooling="raac", resize="longest:256", dtype="float32", indexes=("flat",)
    )
    options = IndexOptions(source=str(work / "training"), root=str(work / "training-root"), recipe=raw)
    run_index(options, Reporter(), runner)
    keys, vectors = stored_descriptors(work / "training-root")
    scene = np.array([key.rsplit("/", 1)[-1].split("-")[0] for key in keys])
    pairs = [(a, b) for a in range(len(keys)) for b in range(a + 1, len(keys)) if scene[a] == scene[b]]
    whitening = fit_supervised(vectors, np.array(pairs, dtype=np.int64), dims=TRAINING_PAIR_DIMS, subspace=SUBSPACE)
    path = work / "whitening.safetensors"
    path.write_bytes(whitening.to_bytes())
    flags = f"--backbone alexnet --weights random:0 --pooling raac --resize longest:256 --whiten {path}"
    honest = (
        "No pretrained weights were found, so the network is random; only its whitening was learned, from pairs of "
        f"views of {TRAINING_SCENES} other generated scenes. Name real weights with python -m jobs.demo --weights FILE."
    )
    recipe = RecipeOptions(
        backbone="alexnet", weights="random:0", pooling="raac", resize="longest:256", whiten=str(path), dtype="float16"
    )
    return Descriptor(recipe=recipe, flags=flags, honest=honest)


def stored_descriptors(root: Path) -> tuple[list[str], Floats]:
    """Return keys and descriptors (n, d) of everything below a local ROOT, sorted by key."""
    files = [p for p in sorted((root / "descriptors").rglob("*.parquet")) if ".rejects." not in p.name]
    readers = [DescriptorReader(path) for path in files]
    keys = list(chain.from_iterable(reader.keys() for reader in readers))
    order = np.argsort(keys, kind="stable")
    return [keys[i] for i in order], np.concatenate([reader.vectors() for reader in readers])[order]


def run_demo(folder: Path, weights: str | None, reporter: Reporter) -> DemoPage:
    """Run everything below `folder`, which is made anew; return the page's content, also written there."""
    started = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    source, root, work = folder / "shards", folder / "root", folder / "work"
    runner = open_runner(RAY)
    try:
        descriptor = choose(weights, work, runner, reporter)
        options = IndexOptions(source=str(source), root=str(root), recipe=descriptor.recipe)
        command = f"sightline index {source} {root} --runner ray {descriptor.flags}"
        draw(tar_items(source, SEED, range(FIRST_SCENES), range(1, VIEWS + 1)), runner, reporter, "draw")
        steps = [Step(command=command, outcome=told(run_index(options, Reporter(), runner)))]
        draw(tar_items(source, SEED, range(FIRST_SCENES, SCENES), range(1, VIEWS + 1)), runner, reporter, "draw")
        split_last(source)
        again = f"sightline index {source} {root} --runner ray"
        steps.append(Step(command=f"{again}   # two new shards", outcome=told(run_index(options, Reporter(), runner))))
        removed = (0, VIEWS)
        first = tar_items(source, SEED, range(SCENES_PER_SHARD), range(1, VIEWS + 1))[0]
        kept = tuple(pair for pair in first.views if pair != removed)
        draw([TarItem(path=first.path, seed=SEED, views=kept)], runner, reporter, "draw")
        steps.append(
            Step(command=f"{again}   # one image taken out", outcome=told(run_index(options, Reporter(), runner)))
        )
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
    truth = write_queries(queries, SEED, range(SCENES), relevant)
    scores = {}
    for kind in ("flat", "ivfpq", "lsh"):
        ask = EvaluateOptions(root=str(root), queries=str(queries), ground_truth=str(truth), index=kind, rerank=60)
        scores[kind] = evaluate(ask, reporter)
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
        views=VIEWS,
        snapshot=snapshot.version,
        descriptor=snapshot.summary.origin,
        honest=descriptor.honest,
        mean_average_precision=scores["flat"]["mAP"],
        precision_at_1=scores["flat"]["P@1"],
        chance=chance_map(images, VIEWS),
        approximate=[(kind, scores[kind]["mAP"]) for kind in ("ivfpq", "lsh")],
        seconds=time.perf_counter() - started,
        steps=steps,
        rows=list(shown_rows(root, queries, relevant)),
    )
    write_page(folder / "index.html", page)
    return page


def shown_rows(root: Path, queries: Path, relevant: dict[int, list[str]]) -> Iterable[Row]:
    """Ask some scenes of every family and return the pictures; wrong results are shown as they come."""
    scenes = [int(scene) for scene in np.linspace(0, SCENES - 1, SHOWN)]
    names = [member_name(scene, 0) for scene in scenes]
    answer = query(
        QueryOptions(
            root=str(root),
            images=[str(queries / name) for name in names],
            search=SearchOptions(k=VIEWS + 1, index="ivfpq"),
        )
    )
    for scene, name, result in zip(scenes, names, answer["results"], strict=True):
        hits = []
        for hit in result["hits"]:
            number, view = hit["key"].rsplit("/", 1)[-1].removeprefix("scene").removesuffix(".jpg").split("-view")
            data = view_bytes(SEED, int(number), int(view))
            hits.append(thumbnail(data, hit["key"], hit["score"], hit["key"] in relevant[scene]))
        yield Row(query=thumbnail((queries / name).read_bytes(), name), hits=hits)


def main(arguments: Sequence[str]) -> int:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", help="MobileNetV2 weights (.pth or .safetensors), or imagenet")
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
        f"mAP {page.mean_average_precision:.3f} (chance {page.chance:.3f}), P@1 {page.precision_at_1:.3f}; "
        f"mAP with {approximate}"
    )
    print(
        f"{page.images} images in snapshot {page.snapshot}, {page.seconds:.0f} s in all; "
        f"open {chosen.folder}/index.html"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
