"""`sightline evaluate`: rankings of a snapshot, or those kept in a file, scored by ground truth.

Queries are images from outside, or those of the collection, each left out of its own ranking. How rankings are made is
in evaluate_runs.py; two snapshots are compared in compare.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from jobs._main import run_module
from jobs.evaluate_runs import EvaluateOptions, run_of, truth_of
from jobs.output import printable
from jobs.progress import Reporter
from pipeline.core import staging
from pipeline.core.errors import NotFoundError, UserError
from pipeline.core.names import public_url
from pipeline.core.storage import split_location
from pipeline.evaluate import revisited
from pipeline.evaluate.classes import Classes
from pipeline.evaluate.ground_truth import GroundTruth
from pipeline.evaluate.results import Asked, Results, ResultsWriter
from pipeline.evaluate.tally import ClassTally, Tally, tally_of
from pipeline.search.engine import SearchIndex

__all__ = ["EvaluateOptions", "evaluate", "lines"]


def evaluate(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Return {"snapshot", "index", "queries", "mAP", "P@1", "R@k", ...} or, in revisited form, easy / medium / hard."""
    options.check()
    if options.results:
        return _of_file(options, reporter)
    truth = truth_of(options)
    with SearchIndex.open(options.root, options.version) as index:
        run = run_of(options, index, truth, reporter)
        exported = _export(options.export, run.asked) if options.export else nullcontext()
        with exported as writer, reporter.phase("rank", run.queries, "queries") as phase:
            shortest = None
            for ranking in run.rankings:
                if writer is not None:
                    writer.add(ranking)
                run.tally.add(ranking)
                shortest = len(ranking.keys) if shortest is None else min(shortest, len(ranking.keys))
                phase.advance()
    return told(run.asked, run.tally, shortest)


def told(asked: Asked, tally: Tally, shortest: int | None) -> dict[str, Any]:
    """Return the scores and what they are of. shortest: length of the shortest ranking, None where there is none."""
    body = tally.body()
    others = None if asked.images is None else asked.images - (asked.classes is not None)
    return {
        "snapshot": asked.snapshot,
        "index": asked.index,
        "descriptor": asked.descriptor,
        "images": asked.images,
        "complete": others is not None and shortest == others,
        "ranked": shortest,
        **({} if asked.classes is None else {"unclassed": asked.unclassed}),
        **body,
    }


@contextmanager
def _export(location: str, asked: Asked) -> Iterator[ResultsWriter]:
    """Write rankings to a .parquet file, local or s3://, which is there when the block has ended well."""
    store, name = split_location(location)
    with staging.folder("rankings-") as folder:
        path = Path(folder) / "rankings.parquet"
        with ResultsWriter(path, asked) as writer:
            yield writer
        store.upload(path, name)


def _of_file(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    shown = public_url(options.results)
    store, name = split_location(options.results)
    with staging.folder("rankings-") as folder:
        try:
            path = store.local(name, Path(folder))
        except NotFoundError:
            raise UserError(shown, "does not exist", "check the path") from None
        results = Results(path, shown)
        truth = truth_of(options)
        tally = _file_tally(options, results, truth)
        with reporter.phase("score", None, "queries") as phase:
            shortest = None
            for ranking in results.rankings():
                tally.add(ranking)
                shortest = len(ranking.keys) if shortest is None else min(shortest, len(ranking.keys))
                phase.advance()
    return told(results.asked, tally, shortest)


def _file_tally(options: EvaluateOptions, results: Results, truth: GroundTruth | None) -> Tally:
    if truth is None:
        return _class_tally(options, results)
    keys = results.keys()
    # An image that no cut ranking holds may be in the collection all the same.
    whole = results.asked.images is not None and len(keys) == results.asked.images
    return tally_of(truth, keys, allow_unknown=options.allow_unknown, whole=whole)


def _class_tally(options: EvaluateOptions, results: Results) -> ClassTally:
    asked = results.asked
    if asked.classes is None:
        raise UserError(results.name, "does not say what classes there are", "score it by --ground-truth")
    if asked.level != options.level:
        raise UserError(
            f"--class-level {options.level}", f"is not that of {results.name}, {asked.level}", "export it anew"
        )
    return ClassTally(Classes(level=options.level, sizes=asked.classes), asked.skipped)


def lines(data: dict[str, Any]) -> list[str]:
    """Return an evaluation in words."""
    note = "" if data["complete"] else f" (rankings are cut at {data['ranked']}: what is not ranked counts as missed)"
    known = [f"snapshot {data['snapshot']}"] if data["snapshot"] is not None else ["rankings of unknown origin"]
    known += [data["index"]] if data["index"] else []
    known += [f"{data['images']} images"] if data["images"] is not None else []
    head = f"{', '.join(known)}, {data['queries']} queries{note}"
    rows = [head]
    if "classes" in data:
        idle = [(data["skipped"], "alone in their class"), (data["unclassed"], "in no folder")]
        left = " and ".join(f"{count} {what}" for count, what in idle if count)
        rows.append(
            f"each asks for the others of its class, itself left out; {data['classes']} classes"
            + (f"; {left} do not ask" if left else "")
        )
    rows += _unknown(data.get("unknown"))
    if "mAP" in data:
        if "classes" not in data and data["skipped"]:
            rows.append(f"{data['skipped']} queries have no relevant images and do not count")
        precision, recall, ndcg = (
            ", ".join(f"{name}@{k} {value:.3f}" for k, value in data[f"{name}@k"].items())
            for name in ("P", "R", "nDCG")
        )
        return [*rows, f"mAP {data['mAP']:.4f}, {precision}", recall, ndcg]
    for protocol in revisited.PROTOCOLS:
        found = data[protocol]
        if found["mAP"] is None:
            rows.append(f"{protocol:<6} {found['why']}")
            continue
        precision = ", ".join(f"mP@{k} {found[f'mP@{k}']:.4f}" for k in revisited.AT)
        rows.append(f"{protocol:<6} mAP {found['mAP']:.4f}, {precision} over {found['queries']} queries")
    if data["distractors"]:
        rows.append(f"{data['distractors']} images that imlist does not name count as negatives")
    return rows


def _unknown(unknown: dict[str, Any] | None) -> list[str]:
    """Return what ground truth names in vain."""
    if unknown is None or not (unknown["queries"] or unknown["images"]):
        return []
    parts = []
    if unknown["images"]:
        shown = ", ".join(map(printable, unknown["examples"]))
        of = f"{unknown['images']} of {unknown['of']} images of the ground truth"
        parts.append(f"{of} are unknown and count as missed ({shown})")
    if unknown["queries"]:
        parts.append(f"{unknown['queries']} queries have no image and do not count")
    return ["; ".join(parts)]


if __name__ == "__main__":
    run_module("evaluate")
