"""Tallies: rankings are added one after the other, and scored by a ground truth; no ranking is kept.

One tally per form of ground truth: keys of relevant images, the revisited protocol, class folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np

from pipeline.core.errors import UserError
from pipeline.evaluate import average_precision, revisited
from pipeline.evaluate.average_precision import Judged, judged, ranks_of
from pipeline.evaluate.classes import Classes, class_of
from pipeline.evaluate.ground_truth import GroundTruth, Relevant, Revisited
from pipeline.evaluate.results import Ranking


class Tally(Protocol):
    """Scores rankings by a ground truth."""

    def add(self, ranking: Ranking) -> None:
        """Score one ranking; the query has none yet."""
        ...

    def body(self) -> dict[str, Any]:
        """Return the scores as evaluation tells them; UserError when nothing could be scored."""
        ...

    def precisions(self) -> dict[str, dict[str, float]]:
        """Return protocol ("" where there is but one) -> query -> average precision, of queries that have positives."""
        ...


def stem(name: str) -> str:
    """Return a name without folders and suffix: what the revisited form calls an image."""
    return PurePosixPath(name).stem


def tally_of(truth: GroundTruth) -> Tally:
    """Return the tally of a ground-truth file."""
    return RelevantTally(truth) if isinstance(truth, Relevant) else RevisitedTally(truth)


class RelevantTally:
    """By the keys of relevant images; queries without any are skipped and counted."""

    def __init__(self, truth: Relevant) -> None:
        self._truth = truth.relevant
        self._judged: dict[str, Judged] = {}
        self._seen: set[str] = set()

    def add(self, ranking: Ranking) -> None:
        """Score one ranking; queries that the ground truth does not know do not count."""
        relevant = self._truth.get(ranking.query)
        if relevant is None:
            return
        self._seen.add(ranking.query)
        if relevant:
            self._judged[ranking.query] = judged(ranks_of(ranking.keys, relevant), len(relevant))

    def body(self) -> dict[str, Any]:
        """Return means; UserError when a query has not been answered, or none has relevant images."""
        _all_there(self._truth, self._seen)
        return plain_body(self._judged, len(self._seen) - len(self._judged))

    def precisions(self) -> dict[str, dict[str, float]]:
        """See Tally."""
        return {"": {query: found.average_precision for query, found in self._judged.items()}}


class RevisitedTally:
    """By the revisited protocol; images and queries go by their stems."""

    def __init__(self, truth: Revisited) -> None:
        self._truth = truth
        self._number = {stem(name): place for place, name in enumerate(truth.imlist)}
        self._query = {stem(name): place for place, name in enumerate(truth.qimlist)}
        self._judged: dict[str, dict[str, revisited.JudgedQuery]] = {}
        self._ranked = len(truth.imlist)

    def add(self, ranking: Ranking) -> None:
        """Score one ranking; indexed images outside imlist are not part of the benchmark and take no rank."""
        name = stem(ranking.query)
        if name not in self._query:
            return
        known = (self._number.get(stem(key)) for key in ranking.keys)
        numbers = np.array([number for number in known if number is not None], dtype=np.int64)
        self._ranked = min(self._ranked, len(numbers))
        self._judged[name] = revisited.judge(numbers, self._truth.gnd[self._query[name]])

    def body(self) -> dict[str, Any]:
        """Return the means of each protocol; UserError when a query has not been answered."""
        _all_there(self._query, set(self._judged))
        body: dict[str, Any] = {"queries": len(self._judged), "ranked_of_imlist": self._ranked}
        for protocol, result in revisited.means([self._judged[name] for name in self._query]).items():
            precision = {f"mP@{k}": value for k, value in result.precision.items()}
            body[protocol] = {"mAP": result.mean_average_precision, "queries": result.queries, **precision}
        return body

    def precisions(self) -> dict[str, dict[str, float]]:
        """See Tally."""
        return {
            protocol: {
                name: found[protocol].average_precision for name, found in self._judged.items() if protocol in found
            }
            for protocol in revisited.PROTOCOLS
        }


class ClassTally:
    """By class folders: relevant are the others of the query's class. skipped: queries that are alone in theirs.

    only: keys that count; others of the class are taken out of the ranking before it is scored.
    """

    def __init__(self, classes: Classes, skipped: int, only: frozenset[str] | None = None) -> None:
        self._classes, self._skipped, self._only = classes, skipped, only
        self._judged: dict[str, Judged] = {}
        self._known: dict[str, str] = {}

    def add(self, ranking: Ranking) -> None:
        """Score one ranking; it does not hold the query itself."""
        relevant = self._classes.size_of(ranking.query) - 1
        if relevant < 1:
            return
        own = self._class_of(ranking.query)
        ranks, ignored = [], 0
        for rank, key in enumerate(ranking.keys):
            if self._class_of(key) == own:
                if self._only is None or key in self._only:
                    ranks.append(rank - ignored)
                else:
                    ignored += 1
        self._judged[ranking.query] = judged(np.array(ranks, dtype=np.int64), relevant)

    def _class_of(self, key: str) -> str:
        name = self._known.get(key)
        if name is None:
            name = self._known[key] = class_of(key, self._classes.level)
        return name

    def body(self) -> dict[str, Any]:
        """Return means, and how many classes there are."""
        several = sum(size > 1 for size in self._classes.sizes.values())
        return {"classes": several, **plain_body(self._judged, self._skipped)}

    def precisions(self) -> dict[str, dict[str, float]]:
        """See Tally."""
        return {"": {query: found.average_precision for query, found in self._judged.items()}}


def plain_body(queries: Mapping[str, Judged], skipped: int) -> dict[str, Any]:
    """Return the means of queries as JSON; UserError when there are none."""
    scores = average_precision.means(list(queries.values()), skipped)
    if not scores.queries:
        raise UserError("ground truth", "has no query with relevant images", "check the file")
    return {
        "queries": scores.queries,
        "skipped": scores.skipped,
        "mAP": scores.mean_average_precision,
        "P@1": scores.precision_at_1,
        "P@k": {str(k): value for k, value in scores.precision.items()},
        "R@k": {str(k): value for k, value in scores.recall.items()},
        "nDCG@k": {"all" if k is None else str(k): value for k, value in scores.ndcg.items()},
    }


def _all_there(wanted: Mapping[str, Any], answered: set[str]) -> None:
    missing = next((query for query in wanted if query not in answered), None)
    if missing is not None:
        raise UserError("ground truth", f"asks for query {missing!r}, of which there is no ranking", "check the names")
