"""Which setting to search with: the fastest that reaches a recall within so many bytes per vector, by measuring few.

Efforts are doubled and halved from the recipe's value, then bisected around the best; each is taken with the fewest
re-ranked candidates that reach the target, which is known without timing (see sweep.py). Timed is only what may be the
fastest: more effort must save candidates. Where nothing reaches the target, what limits it is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

from pipeline.evaluate.limits import SATURATED, limits
from pipeline.evaluate.settings import Goal, Settings
from pipeline.evaluate.sweep import Point, Questions
from pipeline.search.engine import SearchIndex

GRID = 40
"""Settings up to which a grid that is asked for is measured as a whole."""
BISECTIONS, PATIENCE = 3, 2
USUAL_RERANK = 100
"""What a query for ten results re-ranks."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Measured points by effort and depth; the recipe's own setting; the best, or in words why there is none."""

    kind: str
    points: tuple[Point, ...]
    usual: Point
    best: Point | None
    limits: tuple[str, ...]


def tune(
    index: SearchIndex, asked: Questions, kind: str, goal: Goal, told: Callable[[Point], None] | None = None
) -> Tuned:
    """Measure, and choose. told hears of every point when it is measured."""
    search = Settings(index, asked, kind, goal, told)
    usual = search.start, USUAL_RERANK if not search.spec.exact else 0
    search.point(*usual)
    if goal.efforts or search.start is None:
        _given(search, goal)
    else:
        _double(search)
        _halve(search)
        _bisect(search)
    fits = search.spec.row_bytes(index.dim) <= goal.max_bytes
    if fits:
        search.decide()
    best = search.best if fits else None
    return Tuned(
        kind=kind,
        points=tuple(sorted(search.points.values(), key=lambda point: (point.effort or 0, point.rerank))),
        usual=search.points[usual],
        best=best,
        limits=() if best else tuple(limits(search)),
    )


def _given(search: Settings, goal: Goal) -> None:
    efforts: list[int | None] = [*sorted(set(goal.efforts))] or [None]
    if goal.reranks and len(efforts) * len(goal.reranks) <= GRID:
        for effort in efforts:
            for rerank in sorted(set(goal.reranks)):
                search.point(effort, rerank)
        return
    for effort in efforts:
        search.point(effort, 0)
        search.attempt(effort)


def _double(search: Settings) -> None:
    """From the recipe's effort up, while that saves candidates or brings the target nearer."""
    effort, last = search.start or 1, None
    while True:
        alone = search.point(effort, 0)
        if search.outdone(effort):
            return
        found, best = search.attempt(effort), search.best
        if best is not None and (alone.p50 >= best.p50 or search.needed[effort] == 0):
            return
        if found is None and last is not None and search.reached[effort] - search.reached[last] < SATURATED:
            return
        if effort >= search.most:
            return
        effort, last = min(2 * effort, search.most), effort


def _halve(search: Settings) -> None:
    """From the recipe's effort down as far as the target is within reach; until it has become slower twice."""
    efforts = [search.start or 1]
    while efforts[-1] > 1 and search.need(efforts[-1] // 2) is not None:
        efforts.append(efforts[-1] // 2)
    slower = 0
    for effort in efforts[1:]:
        if search.outdone(effort):
            continue
        before, found = search.best, search.attempt(effort)
        search.point(effort, 0)
        slower = slower + 1 if before is not None and found is not None and found.p50 >= before.p50 else 0
        if slower == PATIENCE:
            return


def _bisect(search: Settings) -> None:
    """Between the best effort and its neighbours, by the geometric mean, where it may save time or candidates."""
    for _ in range(BISECTIONS):
        best = search.best
        if best is None or best.effort is None:
            return
        tried = sorted(effort for effort in search.needed if effort is not None)
        place = tried.index(best.effort) if best.effort in tried else 0
        around = [tried[i] for i in (place - 1, place + 1) if 0 <= i < len(tried)]
        between = {isqrt(best.effort * other) for other in around if search.need(other) != search.need(best.effort)}
        for effort in sorted(between - set(tried)):
            if not search.outdone(effort):
                search.attempt(effort)
