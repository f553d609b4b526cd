"""What is measured of the settings of an index kind while one is looked for; each is measured once. See tuning.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.evaluate.sweep import EPSILON, Point, Questions, Setting, least_rerank, recall, resolved, timed
from pipeline.index import IndexSpec
from pipeline.search.engine import SearchIndex

BISECTIONS = 3
FINALISTS, ROUNDS = 3, 2
"""The fastest are timed again, in turns: a machine that does something else for a moment must not decide."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is wanted, and what may be tried: efforts and numbers of re-ranked candidates, () for any.

    deepest: most candidates to re-rank where those are free. seconds: see `measure`. row_bytes: see `resolved`.
    """

    target: float = 0.95
    max_bytes: int = 64
    efforts: tuple[int, ...] = ()
    reranks: tuple[int, ...] = ()
    deepest: int = 1000
    seconds: float = 2.0
    row_bytes: int | None = None


class Settings:
    """What is known so far of the settings of an index kind: recall of some, times of fewer."""

    def __init__(
        self,
        index: SearchIndex,
        asked: Questions,
        kind: str,
        goal: Goal,
        told: Callable[[Point], None] | None,
    ) -> None:
        self.index, self.asked, self.kind, self.goal, self.told = index, asked, kind, goal, told
        self.spec: IndexSpec = resolved(index, kind, goal.row_bytes)
        self.start: int | None = getattr(self.spec, self.spec.effort) if self.spec.effort else None
        self.most = int(getattr(self.spec, "nlist", None) or max(1, index.images))
        self.deepest = 0 if self.spec.exact else min(max(goal.reranks, default=goal.deepest), index.images)
        self.points: dict[tuple[int | None, int], Point] = {}
        self.reached: dict[int | None, float] = {}
        self.needed: dict[int | None, int | None] = {}
        self._recalls: dict[tuple[int | None, int], float] = {}

    def recall(self, effort: int | None, rerank: int) -> float:
        """Return the recall of a setting, measured once; nothing is timed."""
        if (effort, rerank) not in self._recalls:
            self._recalls[effort, rerank] = recall(self.index, self.asked, self.kind, effort, rerank)
        return self._recalls[effort, rerank]

    def point(self, effort: int | None, rerank: int) -> Point:
        """Return a setting's recall and times, measured once."""
        if (effort, rerank) not in self.points:
            found = self.points[effort, rerank] = self._timed(effort, rerank)
            if self.told is not None:
                self.told(found)
        return self.points[effort, rerank]

    def _timed(self, effort: int | None, rerank: int) -> Point:
        setting = Setting(effort=effort, rerank=rerank, recall=self.recall(effort, rerank))
        found = timed(self.index, self.asked, self.kind, setting, self.goal.seconds)
        return replace(found, bytes=self.spec.row_bytes(self.index.dim))

    def reaches(self, share: float) -> bool:
        """Whether a recall is that which is wanted."""
        return share >= self.goal.target - EPSILON

    @property
    def best(self) -> Point | None:
        """The fastest of those that reach the target."""
        return next(iter(self.good), None)

    @property
    def good(self) -> list[Point]:
        """Those that are allowed and reach the target, the fastest first."""
        allowed = self.goal.reranks or range(self.deepest + 1)
        good = [point for point in self.points.values() if self.reaches(point.recall) and point.rerank in allowed]
        return sorted(good, key=lambda point: point.p50)

    def decide(self) -> None:
        """Time the fastest again, in turns, and keep of each the quickest."""
        for _ in range(ROUNDS):
            for point in self.good[:FINALISTS]:
                again = self._timed(point.effort, point.rerank)
                self.points[point.effort, point.rerank] = min(again, point, key=lambda one: one.p50)

    def need(self, effort: int | None) -> int | None:
        """Return the fewest candidates to re-rank for the target, None where no number does; nothing is timed."""
        if effort not in self.needed:
            least, self.reached[effort] = least_rerank(
                self.index, self.asked, self.kind, effort, target=self.goal.target, deepest=self.deepest
            )
            self.needed[effort] = None if least is None else self._confirmed(effort, least)
        return self.needed[effort]

    def outdone(self, effort: int) -> bool:
        """Whether a lower effort needs no more candidates: then this one can only be slower."""
        mine = self.need(effort)
        lower = [needed for other, needed in self.needed.items() if other is not None and other < effort]
        return mine is not None and any(needed is not None and needed <= mine for needed in lower)

    def attempt(self, effort: int | None) -> Point | None:
        """Time an effort with the fewest candidates that reach the target; None where the target is out of reach."""
        rerank = self.need(effort)
        return None if rerank is None else self.point(effort, rerank)

    def _confirmed(self, effort: int | None, least: int) -> int | None:
        """Return a depth that reaches the target when nothing deeper is searched; few depths are tried.

        Some kinds look further when more results are asked for, so the deepest search may have told too little of
        what a shallower one needs: depths are doubled from `least`, then bisected.
        """
        allowed = self.goal.reranks or (0,)
        if 0 in allowed and self.reaches(self.recall(effort, 0)):
            return 0
        if self.goal.reranks:
            return next((depth for depth in sorted(self.goal.reranks) if self._enough(effort, depth, least)), None)
        failed, depth = 0, rounded(least)
        while not self._enough(effort, min(depth, self.deepest), least):
            if depth >= self.deepest:
                return None
            failed, depth = depth, 2 * depth
        depth = min(depth, self.deepest)
        for _ in range(BISECTIONS if failed else 0):
            middle = rounded((failed + depth) // 2)
            if not failed < middle < depth:
                break
            failed, depth = (failed, middle) if self._enough(effort, middle, least) else (middle, depth)
        return depth

    def _enough(self, effort: int | None, depth: int, least: int) -> bool:
        # Below the least depth only one that is not re-ranked could do, and that is known not to.
        return depth >= least and self.reaches(self.recall(effort, depth))


def rounded(depth: int) -> int:
    """Return a depth rounded up to half a step of its second digit: other queries need a little more or less."""
    unit = max(1, int(10 ** (len(str(depth)) - 1)) // 2)
    return -(-depth // unit) * unit
