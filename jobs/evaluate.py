"""`sightline evaluate`: query images against the published index, scored by ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from jobs._main import run_module
from jobs.progress import Reporter
from jobs.query import read_image
from pipeline.core.errors import UserError
from pipeline.core.names import public_url
from pipeline.core.storage import open_store
from pipeline.core.types import Image, Ints, Reject, Shard
from pipeline.evaluate import average_precision, revisited
from pipeline.evaluate.ground_truth import Relevant, Revisited, parse_ground_truth
from pipeline.search.augment import Augmented
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.search.find import find
from pipeline.search.query import Box, BoxScale, Query, QueryExtractor
from pipeline.sources.folder import Spec as FolderSpec
from pipeline.stages.describe import choose_device


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """An evaluation run. rerank None re-ranks max(100, 10 k); the ranking is complete for an exact index.

    expand, augment: (K, ALPHA) of query expansion and of database augmentation, which ranks exactly whatever the index.
    """

    root: str
    queries: str
    ground_truth: str
    index: str = ""
    rerank: int | None = None
    verify: int = 0
    expand: tuple[int, float] | None = None
    augment: tuple[int, float] | None = None
    box_scale: BoxScale = "own"
    device: str = "auto"


def evaluate(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Return {"snapshot", "index", "queries", "mAP", "P@1", "R@k"} or, in revisited form, easy / medium / hard."""
    truth = parse_ground_truth(read_image(options.ground_truth), public_url(options.ground_truth))
    with SearchIndex.open(options.root) as index:
        spec = index.spec(options.index)
        wanted = _wanted(truth)
        extractor = QueryExtractor(open_store(options.root), index.snapshot.recipe, choose_device(options.device))
        described: dict[str, Query] = {}
        with reporter.phase("describe", len(wanted), "queries") as phase:
            for name, data in _query_images(options.queries, set(wanted)):
                described[name] = extractor.describe(data, name, wanted[name], options.box_scale)
                phase.advance(1)
        missing = [name for name in wanted if name not in described]
        if missing:
            raise UserError(public_url(options.queries), f"has no image for query {missing[0]!r}", "check the names")
        # A ranking that is cut short counts every positive beyond it as missed: rank everything there is.
        complete = SearchOptions(
            k=max(1, index.images), index=spec.kind, rerank=options.rerank, verify=options.verify, expand=options.expand
        )
        if options.augment is None:
            found = find(index, [described[name] for name in wanted], complete)
        else:
            stacked = np.stack([described[name].batch.vectors[0] for name in wanted])
            found = Augmented(index, *options.augment).find(stacked, complete)
        rankings = {name: [hit.key for hit in hits] for name, hits in zip(wanted, found, strict=True)}
        head = {
            "snapshot": index.snapshot.version,
            "index": spec.kind,
            "descriptor": index.snapshot.summary.origin,
            "images": index.images,
            "complete": all(len(ranking) == index.images for ranking in rankings.values()),
        }
    if isinstance(truth, Relevant):
        return {**head, **_plain(rankings, truth)}
    return {**head, **_revisited([rankings[_stem(name)] for name in truth.qimlist], truth)}


def _wanted(truth: Relevant | Revisited) -> dict[str, Box | None]:
    """Return the queries by key (by stem in revisited form), each with its box (x, y, width, height)."""
    if isinstance(truth, Relevant):
        return dict.fromkeys(truth.relevant)
    wanted: dict[str, Box | None] = {}
    for name, query in zip(truth.qimlist, truth.gnd, strict=True):
        box = query.box
        wanted[_stem(name)] = None if box is None else (box[0], box[1], box[2] - box[0], box[3] - box[1])
    return wanted


def _query_images(folder: str, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name as wanted, bytes) of the images in a folder that are queries, by key or by stem."""
    source = FolderSpec().open(folder)
    for entry in source.listing():
        name = entry.path if entry.path in wanted else _stem(entry.path)
        if name not in wanted:
            continue
        shard = Shard(id="", uri=folder, bytes=entry.size, etag="", entries=(entry,))
        for item in source.images(shard):
            if isinstance(item, Reject):
                raise UserError(item.uri, item.reason, "check the query folder")
            assert isinstance(item, Image), "a source yields images and rejects"
            yield name, item.data


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _plain(rankings: Mapping[str, Sequence[str]], truth: Relevant) -> dict[str, Any]:
    scores = average_precision.score(rankings, truth.relevant)
    if not scores.queries:
        raise UserError("ground truth", "has no query with relevant images", "check the file")
    return {
        "queries": scores.queries,
        "skipped": scores.skipped,
        "mAP": scores.mean_average_precision,
        "P@1": scores.precision_at_1,
        "R@k": {str(k): value for k, value in scores.recall.items()},
    }


def _revisited(rankings: Sequence[Sequence[str]], truth: Revisited) -> dict[str, Any]:
    number = {_stem(name): index for index, name in enumerate(truth.imlist)}
    # Indexed images outside imlist are not part of the benchmark and take no rank.
    numbered: list[Ints] = [
        np.array([number[_stem(key)] for key in ranking if _stem(key) in number], dtype=np.int64)
        for ranking in rankings
    ]
    scores = revisited.score(numbered, truth)
    body: dict[str, Any] = {"queries": len(rankings), "ranked_of_imlist": min(len(ranking) for ranking in numbered)}
    for protocol, result in scores.items():
        precision = {f"mP@{k}": value for k, value in result.precision.items()}
        body[protocol] = {"mAP": result.mean_average_precision, "queries": result.queries, **precision}
    return body


def lines(data: dict[str, Any]) -> list[str]:
    """Return an evaluation in words."""
    note = "" if data["complete"] else " (rankings are cut short: what is not ranked counts as missed)"
    head = f"snapshot {data['snapshot']}, {data['index']}, {data['images']} images, {data['queries']} queries{note}"
    if "mAP" in data:
        recall = ", ".join(f"R@{k} {value:.3f}" for k, value in data["R@k"].items())
        return [head, f"mAP {data['mAP']:.4f}, P@1 {data['P@1']:.3f}, {recall}"]
    rows = [head]
    for protocol in revisited.PROTOCOLS:
        found = data[protocol]
        precision = ", ".join(f"mP@{k} {found[f'mP@{k}']:.4f}" for k in revisited.AT)
        rows.append(f"{protocol:<6} mAP {found['mAP']:.4f}, {precision} over {found['queries']} queries")
    return rows


if __name__ == "__main__":
    run_module("evaluate")
