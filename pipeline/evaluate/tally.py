"""Tallies: rankings are added one after the other, and scored by a ground truth; no ranking is kept.

One tally per form of ground truth: keys of relevant images, the revisited protocol, class folders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.core.errors import UserError
from pipeline.evaluate import average_precision, revisited
from pipeline.evaluate.average_precision import Judged, judged, ranks_of
from pipeline.evaluate.classes import Classes, class_of
from pipeline.evaluate.ground_truth import GroundTruth, Relevant, Revisited
from pipeline.evaluate.matching import REMEDY, Names, missing
from pipeline.evaluate.results import Ranking

FEW = 0.05
"""Share of the images that ground truth names which may be unknown: rejected ones, or deleted since it was written."""
EXAMPLES = 3
OUTSIDE = -1
"""An image that imlist does not name."""


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


def tally_of(truth: GroundTruth, keys: Collection[str], *, allow_unknown: bool = False, whole: bool = True) -> Tally:
    """Return the tally of a ground-truth file, over rankings of the images of these keys.

    UserError when more than FEW of the images that it names are unknown, unless that is allowed. whole: whether keys
    are all images that could be ranked; where they are not, only ground truth of which nothing is known is refused.
    """
    form = RelevantTally if isinstance(truth, Relevant) else RevisitedTally
    tally: RelevantTally | RevisitedTally = form(truth, keys, allow_unknown)  # type: ignore[arg-type]
    few = FEW * tally.images if whole else tally.images - 1
    if len(tally.unknown) > few and not allow_unknown:
        shown = ", ".join(map(repr, tally.unknown[:EXAMPLES]))
        raise UserError(
            "ground truth",
            f"names {len(tally.unknown)} of {tally.images} images that are unknown, for example {shown}; "
            f"known are such as {next(iter(sorted(keys)), '')!r}",
            "name images by their keys, or go on with --allow-unknown",
        )
    return tally


class _QueryTally:
    """What the tallies of ground-truth files share: which query a ranking is of, and what is unknown.

    images: how many images ground truth names; unknown: those that no key goes by, which count as missed.
    """

    def __init__(self, queries: Sequence[str], images: int, unknown: list[str], allow_unknown: bool) -> None:
        self.images, self.unknown = images, unknown
        self._queries = Names(queries, "queries")
        self._allow_unknown = allow_unknown
        self._ranked: dict[int, tuple[int, str]] = {}

    def _place(self, query: str, *, exact: bool) -> int | None:
        """Return the number of the query that a ranking is of; None where it is of none, or another one is closer.

        exact: whether only the name itself counts. UserError where two rankings are equally close to a query.
        """
        distance, places = self._queries.like(query)
        if len(places) != 1 or (exact and distance):
            return None
        (place,) = places
        before, first = self._ranked.get(place, (distance, query))
        if before < distance:
            return None
        if before == distance and first != query:
            why = f"has the query {self._queries.names[place]!r}, which may mean {first!r} or {query!r}"
            raise UserError("ground truth", why, REMEDY)
        self._ranked[place] = (distance, query)
        return place

    def _told(self) -> dict[str, Any]:
        """Return what is unknown; UserError when a query has no ranking, unless that is allowed."""
        absent = [name for place, name in enumerate(self._queries.names) if place not in self._ranked]
        if absent and not self._allow_unknown:
            why = f"asks for query {absent[0]!r}, of which there is no ranking"
            raise UserError("ground truth", why, "check the names, or go on with --allow-unknown")
        unknown = {"queries": len(absent), "images": len(self.unknown), "of": self.images}
        return {"unknown": unknown | ({"examples": self.unknown[:EXAMPLES]} if self.unknown else {})}


class RelevantTally(_QueryTally):
    """By the keys of relevant images; queries without any are skipped and counted."""

    def __init__(self, truth: Relevant, keys: Collection[str], allow_unknown: bool = False) -> None:
        relevant = set().union(*truth.relevant.values())
        unknown = sorted(relevant.difference(keys))
        super().__init__(list(truth.relevant), len(relevant), unknown, allow_unknown)
        self._truth = truth.relevant
        self._judged: dict[str, Judged] = {}

    def add(self, ranking: Ranking) -> None:
        """Score one ranking; queries that the ground truth does not know do not count."""
        place = self._place(ranking.query, exact=True)
        if place is None:
            return
        name = self._queries.names[place]
        relevant = self._truth[name]
        if relevant:
            self._judged[name] = judged(ranks_of(ranking.keys, relevant), len(relevant))

    def body(self) -> dict[str, Any]:
        """Return means; UserError when a query has not been answered, or none has relevant images."""
        told = self._told()
        return {**plain_body(self._judged, len(self._ranked) - len(self._judged)), **told}

    def precisions(self) -> dict[str, dict[str, float]]:
        """See Tally."""
        return {"": {query: found.average_precision for query, found in self._judged.items()}}


class RevisitedTally(_QueryTally):
    """By the revisited protocol. Images that imlist does not name are negatives, as its distractors are."""

    def __init__(self, truth: Revisited, keys: Collection[str], allow_unknown: bool = False) -> None:
        names = Names(truth.imlist, "imlist")
        self._number = names.match(keys)
        super().__init__(truth.qimlist, len(truth.imlist), missing(names, self._number), allow_unknown)
        self._truth = truth
        self._judged: dict[str, dict[str, revisited.JudgedQuery]] = {}
        self._outside = len(keys) - len(self._number)
        self._of_imlist = len(truth.imlist)

    def add(self, ranking: Ranking) -> None:
        """Score one ranking; queries that the ground truth does not know do not count."""
        place = self._place(ranking.query, exact=False)
        if place is None:
            return
        numbers = np.array([self._number.get(key, OUTSIDE) for key in ranking.keys], dtype=np.int64)
        self._of_imlist = min(self._of_imlist, int((numbers != OUTSIDE).sum()))
        self._judged[self._queries.names[place]] = revisited.judge(numbers, self._truth.gnd[place])

    def body(self) -> dict[str, Any]:
        """Return the means of each protocol, null where no query has positives in it; UserError as for Relevant."""
        told = self._told()
        body: dict[str, Any] = {"queries": len(self._judged), "ranked_of_imlist": self._of_imlist}
        body["distractors"] = self._outside
        means = revisited.means(list(self._judged.values()))
        if not any(result.queries for result in means.values()):
            raise UserError("ground truth", "has no query with positives", "check the file")
        for protocol, result in means.items():
            precision = {f"mP@{k}": value for k, value in result.precision.items()}
            why = {} if result.queries else {"why": "no query has positives in this protocol"}
            body[protocol] = {"mAP": result.mean_average_precision, "queries": result.queries, **precision, **why}
        return {**body, **told}

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
