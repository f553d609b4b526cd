"""`sightline evaluate --compare`: two snapshots by the same queries and ground truth, and whether they really differ.

Each snapshot describes the queries by its own recipe. By class folders, the images that both snapshots hold ask and
count: those that only one holds are ranked as others, but are neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jobs.evaluate_runs import EvaluateOptions, run_of, truth_of
from jobs.output import printable
from jobs.progress import Reporter
from pipeline.core.errors import UserError
from pipeline.core.names import public_url
from pipeline.core.storage import open_store
from pipeline.evaluate.bootstrap import LEVEL, RESAMPLES, Compared
from pipeline.evaluate.bootstrap import compare as bootstrapped
from pipeline.evaluate.rank import collection
from pipeline.publish.marks import tags
from pipeline.search.engine import SearchIndex

FEW = 20
"""Queries below which only large differences can show."""


def version_of(root: str, text: str) -> int:
    """Return the number of a snapshot from "41", "v41" or its tag."""
    known = tags(open_store(root))
    if text in known:
        return known[text]
    digits = text.removeprefix("v")
    if not (digits.isascii() and digits.isdigit()):
        raise UserError(f"{public_url(root)}", f"has no snapshot or tag {text!r}", "see `sightline status`")
    return int(digits)


def compare(
    options: EvaluateOptions, first: str, second: str, reporter: Reporter, *, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Return {"snapshots", "index", "queries", "mAP": {...}, "per_query"}, or easy / medium / hard, each with both.

    Differences are of the second from the first.
    """
    options.check()
    if options.results or options.export:
        raise UserError("--compare", "ranks by two snapshots", "leave out --results and --export")
    versions = [version_of(options.root, text) for text in (first, second)]
    truth = truth_of(options)
    only = _common(options.root, versions) if truth is None else None
    kinds: list[str] = []
    found: list[dict[str, dict[str, float]]] = []
    for version in versions:
        with SearchIndex.open(options.root, version) as index:
            run = run_of(replace(options, version=version), index, truth, reporter, only)
            with reporter.phase(f"rank, snapshot {version}", run.queries, "queries") as phase:
                for ranking in run.rankings:
                    run.tally.add(ranking)
                    phase.advance()
            run.tally.body()
            kinds.append(run.asked.index)
            found.append(run.tally.precisions())
    body: dict[str, Any] = {"snapshots": versions, "index": kinds, "resamples": resamples, "seed": options.seed}
    for protocol in found[0]:
        told = _compared(found[0][protocol], found[1][protocol], versions, resamples, options.seed)
        body |= {protocol: told} if protocol else told
    return body


def _common(root: str, versions: list[int]) -> frozenset[str]:
    """Return the keys that both snapshots hold."""
    keys = []
    for version in versions:
        with SearchIndex.open(root, version) as index:
            keys.append(frozenset(collection(index).keys))
    if not keys[0] & keys[1]:
        raise UserError("--compare", "finds no image that both snapshots hold", "compare by --ground-truth")
    return keys[0] & keys[1]


def _compared(
    first: Mapping[str, float], second: Mapping[str, float], versions: list[int], resamples: int, seed: int
) -> dict[str, Any]:
    both = [query for query in first if query in second]
    if not both:
        return {"queries": 0, "mAP": None, "per_query": {}}
    pairs = np.array([[first[query], second[query]] for query in both])
    told = bootstrapped(pairs[:, 0], pairs[:, 1], resamples=resamples, seed=seed)
    return {
        "queries": told.queries,
        "mAP": {
            "first": told.first,
            "second": told.second,
            "difference": told.difference,
            "interval": [told.low, told.high],
            "p": told.p_value,
            "differ": told.differ,
            "better": told.better,
            "worse": told.worse,
            "says": sentence(told, versions),
        },
        "per_query": {query: {"AP": pair, "difference": pair[1] - pair[0]} for query, pair in _pairs(both, pairs)},
    }


def _pairs(queries: list[str], pairs: Any) -> list[tuple[str, list[float]]]:
    return list(zip(queries, pairs.tolist(), strict=True))


def sentence(told: Compared, versions: list[int]) -> str:
    """Return whether two snapshots really differ, in one sentence."""
    one, two = versions
    if not told.better and not told.worse:
        return f"snapshots {one} and {two} score alike in every one of {told.queries} queries"
    figures = (
        f"mAP {told.difference:+.4f}, {100 * LEVEL:.0f} % interval {told.low:+.4f} to {told.high:+.4f}, "
        f"p = {told.p_value:.2g}, {told.better} of {told.queries} queries better and {told.worse} worse"
    )
    few = f"; of {told.queries} queries only large differences show" if told.queries < FEW else ""
    if told.differ:
        how = "better" if told.difference > 0 else "worse"
        return f"snapshot {two} is {how} than {one}, beyond chance: {figures}{few}"
    return f"snapshots {one} and {two} do not differ beyond chance: {figures}{few}"


def lines(data: dict[str, Any]) -> list[str]:
    """Return a comparison in words, with the queries that changed most."""
    one, two = data["snapshots"]
    kinds = " and ".join(dict.fromkeys(data["index"]))
    rows = [f"snapshots {one} and {two}, {kinds}; {data['resamples']} resamples of the queries"]
    for protocol in ("", "easy", "medium", "hard"):
        told = data.get(protocol) if protocol else data
        if not told or "mAP" not in told:
            continue
        label = f"{protocol}: " if protocol else ""
        if told["mAP"] is None:
            rows.append(f"{label}no query has positives")
            continue
        found = told["mAP"]
        rows += [f"{label}mAP {found['first']:.4f} -> {found['second']:.4f}", f"  {found['says']}"]
        most = sorted(told["per_query"].items(), key=lambda item: -abs(item[1]["difference"]))[:5]
        rows += [
            f"  {value['difference']:+.4f}  {printable(query)}  {value['AP'][0]:.4f} -> {value['AP'][1]:.4f}"
            for query, value in most
            if value["difference"]
        ]
    return rows
