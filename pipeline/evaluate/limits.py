"""Why no setting reaches a recall within so many bytes per vector: what limits it, seen by going one step further."""

from __future__ import annotations

from pipeline.core.errors import UserError
from pipeline.evaluate.settings import Settings
from pipeline.evaluate.sweep import EPSILON
from pipeline.index import IndexSpec
from pipeline.search.engine import SearchIndex

SATURATED = 0.002
"""More recall than this from twice the effort or the depth is worth having."""
CODES = {"ivfpq": "m", "lsh": "nbits"}
"""What makes the codes of a kind finer."""


def limits(search: Settings) -> list[str]:
    """Return why there is no best: bytes, too little effort, too few candidates re-ranked, too coarse codes."""
    goal, spec = search.goal, search.spec
    told: list[str] = []
    size = spec.row_bytes(search.index.dim)
    if size > goal.max_bytes:
        told.append(
            f"{spec.kind} takes {size} bytes per vector in memory, more than the {goal.max_bytes} allowed: "
            "allow more, or take ivfpq"
        )
        if search.best is not None:
            return told
    for effort in goal.efforts or (search.start,):
        search.need(effort)
    effort, most = max(search.reached.items(), key=lambda item: item[1])
    if most >= goal.target - EPSILON:
        needed = search.needed[effort]
        depth = "more" if needed is None else str(needed)
        with_effort = f" at {spec.effort} {effort}" if effort is not None else ""
        return [*told, f"re-ranking limits: the neighbours are among the candidates{with_effort}, re-rank {depth}"]
    if goal.efforts and effort is not None and effort < search.most:
        wider = min(search.most, 2 * effort)
        search.need(wider)
        if search.reached[wider] - most > SATURATED:
            told.append(
                f"{spec.effort} limits: {wider} holds {search.reached[wider]:.3f} of the neighbours among its "
                f"candidates, {effort} {most:.3f}; try more"
            )
    deeper = min(2 * max(search.deepest, search.asked.k), search.index.images)
    more = search.recall(effort, deeper)
    if more - most > SATURATED:
        told.append(
            f"re-ranking limits: {deeper} candidates hold {more:.3f} of the neighbours, {search.deepest} {most:.3f}; "
            "re-rank more"
        )
    return told if told and goal.reranks else [*told, _coarse(search, effort, most)]


def _coarse(search: Settings, effort: int | None, most: float) -> str:
    with_effort = f"{search.spec.effort} {effort} and " if effort is not None else ""
    held = (
        f"codes limit: with {with_effort}{search.deepest} candidates re-ranked recall@{search.asked.k} is {most:.3f} "
        f"at {search.spec.row_bytes(search.index.dim)} bytes per vector"
    )
    field = CODES.get(search.spec.kind)
    if field is None:
        return f"{held}; another kind, or ivfpq with a larger m, holds more of a vector"
    finer = _finer(search.spec, field, search.index)
    if finer is None:
        return f"{held}, and {search.spec.kind} has no finer ones"
    size = finer.row_bytes(search.index.dim)
    fits = "" if size <= search.goal.max_bytes else f", more than the {search.goal.max_bytes} allowed"
    return f"{held}; index with {field} = {getattr(finer, field)}, {size} bytes{fits}"


def _finer(spec: IndexSpec, field: str, index: SearchIndex) -> IndexSpec | None:
    """Return the settings with codes half as large again, or the next that are possible."""
    now: int = getattr(spec, field)
    stated = index.spec(spec.kind)
    for value in range(now + (now + 1) // 2, 4 * now + 1):
        try:
            return stated.model_copy(update={field: value}).resolve(rows=max(1, index.images), dim=index.dim)
        except UserError:
            continue
    return None
