"""What an evaluation asks a snapshot: query images described by its recipe, or its own images by class folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jobs.progress import Reporter
from jobs.query import read_image
from pipeline.core.errors import UserError
from pipeline.core.names import public_url
from pipeline.core.storage import open_store
from pipeline.core.types import Entry, Ints, Reject, Shard
from pipeline.evaluate.classes import OWN_FOLDER, Classes
from pipeline.evaluate.ground_truth import GroundTruth, Relevant, parse_ground_truth
from pipeline.evaluate.matching import Names
from pipeline.evaluate.rank import Collection, Ranker, collection, depth_for
from pipeline.evaluate.results import Asked, Ranking
from pipeline.evaluate.tally import ClassTally, Tally, tally_of
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.search.query import Box, BoxScale, Query, QueryExtractor
from pipeline.sources import Source
from pipeline.sources.folder import Spec as FolderSpec
from pipeline.stages.device import choose_device

RERANK = 100
"""What a query for ten results re-ranks: more than that is not what users get."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """An evaluation run: queries and ground_truth, or classes; of a ROOT, or of a file of results.

    level: which folder of a key is its class, 1 the first, -1 the last; sample: so many images ask, drawn by seed.
    depth: how many results are ranked; None ranks all, except where classes have very many images (see rank.py).
    rerank: None for what a query for ten results re-ranks. effort: nprobe, ef_search or checks of the index kind.
    expand, augment: (K, ALPHA) of query expansion and of database augmentation, which ranks exactly whatever the index.
    export: a .parquet file for the rankings. version: the snapshot, None for the latest. allow_unknown: go on although
    ground truth names queries without an image, or many images that are not in the collection.
    """

    root: str = ""
    queries: str = ""
    ground_truth: str = ""
    index: str = ""
    rerank: int | None = None
    verify: int = 0
    expand: tuple[int, float] | None = None
    augment: tuple[int, float] | None = None
    box_scale: BoxScale = "own"
    device: str = "auto"
    classes: bool = False
    level: int = OWN_FOLDER
    sample: int | None = None
    seed: int = 0
    depth: int | None = None
    effort: int | None = None
    export: str = ""
    results: str = ""
    version: int | None = None
    allow_unknown: bool = False

    def check(self) -> None:
        """Raise a UserError where options do not go together."""
        if self.level == 0:
            raise UserError("--class-level 0", "is no folder", "write 1 for the first, -1 for the last")
        if self.classes and (self.queries or self.ground_truth):
            raise UserError("--classes", "asks with the collection's own images", "leave out queries and ground truth")
        if not self.classes and not self.ground_truth:
            raise UserError("evaluate", "has no ground truth", "give --ground-truth FILE, or --classes")
        if self.results:
            if self.root or self.queries or self.export:
                raise UserError("--results", "scores a file alone", "leave out ROOT, --queries and --export")
        elif not self.root:
            raise UserError("evaluate", "has nothing to rank", "give ROOT, or --results FILE.parquet")
        elif not self.classes and not self.queries:
            raise UserError("evaluate", "has no queries", "give --queries DIR, or --classes")
        if self.sample is not None and not self.classes:
            raise UserError("--sample", "draws among the collection's own images", "use it with --classes")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Rankings as they come, how many there will be, who scores them, and what they are of."""

    rankings: Iterator[Ranking]
    queries: int
    tally: Tally
    asked: Asked


def truth_of(options: EvaluateOptions) -> GroundTruth | None:
    """Return the ground truth; None where it is in the names of the images."""
    if options.classes:
        return None
    return parse_ground_truth(read_image(options.ground_truth), public_url(options.ground_truth))


def run_of(
    options: EvaluateOptions,
    index: SearchIndex,
    truth: GroundTruth | None,
    reporter: Reporter,
    only: frozenset[str] | None = None,
) -> Run:
    """Prepare the rankings of a snapshot. only: keys of the images that ask and count, where classes are asked for."""
    images = collection(index)
    if truth is None:
        return _by_classes(options, index, images, only)
    tally = tally_of(truth, set(images.keys), allow_unknown=options.allow_unknown)
    described = _described(options, index, _wanted(truth), reporter)
    # A ranking that is cut short counts every positive beyond it as missed: rank everything there is.
    ranker = _ranker(options, index, images, options.depth or max(1, len(images)))
    return Run(
        rankings=ranker.by_queries(list(described), list(described.values())),
        queries=len(described),
        tally=tally,
        asked=_asked(index, options, images),
    )


def _by_classes(options: EvaluateOptions, index: SearchIndex, images: Collection, only: frozenset[str] | None) -> Run:
    classes = Classes.of((key for key in images.keys if only is None or key in only), options.level)
    drawn = _drawn(images.keys, only, options)
    sizes = np.array([classes.size_of(images.keys[number]) for number in drawn.tolist()], dtype=np.int64)
    asks, skipped = sizes > 1, int((sizes == 1).sum())
    if not asks.any():
        raise UserError("--classes", "finds no folder with two images", "see --class-level")
    depth = options.depth or depth_for(len(images), max(classes.sizes.values()))
    # One more than is scored: the query itself, which is taken out.
    ranker = _ranker(options, index, images, min(depth, len(images) - 1) + 1)
    asked = replace(
        _asked(index, options, images),
        level=options.level,
        classes=classes.sizes,
        skipped=skipped,
        unclassed=int((sizes == 0).sum()),
    )
    return Run(
        rankings=ranker.leave_one_out(drawn[asks]),
        queries=int(asks.sum()),
        tally=ClassTally(classes, skipped, only),
        asked=asked,
    )


def _drawn(keys: Sequence[str], only: frozenset[str] | None, options: EvaluateOptions) -> Ints:
    """Return the numbers of the images that ask: by their keys, so that snapshots with the same keys ask the same."""
    allowed = sorted((n for n, key in enumerate(keys) if only is None or key in only), key=keys.__getitem__)
    numbers = np.array(allowed, dtype=np.int64)
    if options.sample is None or options.sample >= len(numbers):
        return np.sort(numbers)
    return np.sort(np.random.default_rng(options.seed).choice(numbers, size=options.sample, replace=False))


def _ranker(options: EvaluateOptions, index: SearchIndex, images: Collection, k: int) -> Ranker:
    search = SearchOptions(
        k=k,
        index=options.index,
        rerank=RERANK if options.rerank is None else options.rerank,
        verify=options.verify,
        expand=options.expand,
        effort=options.effort,
    )
    return Ranker(index, images, search, options.augment)


def _asked(index: SearchIndex, options: EvaluateOptions, images: Collection) -> Asked:
    return Asked(
        snapshot=index.snapshot.version,
        index=index.spec(options.index).kind,
        descriptor=index.snapshot.summary.origin,
        images=len(images),
    )


def _described(
    options: EvaluateOptions, index: SearchIndex, wanted: Mapping[str, Box | None], reporter: Reporter
) -> dict[str, Query]:
    """Return the queries by name, in the order wanted, by the snapshot's own recipe; UserError where one is missing."""
    source = FolderSpec().open(options.queries)
    entries = {entry.path: entry for entry in source.listing()}
    names = Names(list(wanted), "queries")
    images = {names.names[place]: entries[path] for path, place in names.match(entries).items()}
    absent = [name for name in wanted if name not in images]
    if absent and not (options.allow_unknown and images):
        raise UserError(
            public_url(options.queries),
            f"has no image for {len(absent)} of {len(wanted)} queries, for example for query {absent[0]!r}",
            "check the names, or go on with --allow-unknown",
        )
    extractor = QueryExtractor(open_store(options.root), index.snapshot.recipe, choose_device(options.device))
    described: dict[str, Query] = {}
    with reporter.phase("describe", len(images), "queries") as phase:
        for name in (name for name in wanted if name in images):
            described[name] = extractor.describe(_bytes(source, images[name]), name, wanted[name], options.box_scale)
            phase.advance(1)
    return described


def _wanted(truth: GroundTruth) -> dict[str, Box | None]:
    """Return the queries by name, each with its box (x, y, width, height)."""
    if isinstance(truth, Relevant):
        return dict.fromkeys(truth.relevant)
    wanted: dict[str, Box | None] = {}
    for name, query in zip(truth.qimlist, truth.gnd, strict=True):
        box = query.box
        wanted[name] = None if box is None else (box[0], box[1], box[2] - box[0], box[3] - box[1])
    return wanted


def _bytes(source: Source, entry: Entry) -> bytes:
    """Return a query's image; UserError when it cannot be read."""
    (item,) = source.images(Shard(id="", uri="", bytes=entry.size, etag="", entries=(entry,)))
    if isinstance(item, Reject):
        raise UserError(item.uri, item.reason, "check the query folder")
    return item.data
