"""Near-duplicates: groups of images that are linked by similarities above a threshold.

Every live image asks the index for its neighbours; links are scored exactly from stored descriptors. A group is what
links connect, so two of its images may be less alike than the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import UserError
from pipeline.core.types import Floats, Ints
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.search.merge import Candidates

CHUNK = 1024
"""Images that ask for their neighbours at a time."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """group (m,) ascending, member (m,) and similarity (m,): each member's cosine with the first of its group.

    member numbers the live images, see SearchIndex.live; images without a near duplicate are in no group.
    """

    group: Ints
    member: Ints
    similarity: Floats


def groups(
    index: SearchIndex,
    threshold: float,
    *,
    neighbours: int = 20,
    kind: str = "",
    told: Callable[[int], None] | None = None,
) -> Groups:
    """Return the groups of a snapshot. told hears how many images have asked since the last time.

    neighbours bounds the links that one image contributes; larger groups hang together by those of their others.
    """
    if index.is_local:
        raise UserError("duplicates", "are found by global descriptors, these are local", "encode them")
    if not 0 < threshold <= 1:
        raise UserError(f"--threshold {threshold:g}", "is no cosine", "choose a number in ]0, 1]")
    live = index.live()
    places = (live.file << np.int64(32)) + live.row
    parent = np.arange(len(live), dtype=np.int64)
    for start, found in _asked(index, live, SearchOptions(k=neighbours + 1, index=kind)):
        for offset, mine in enumerate(found):
            near = mine.score >= threshold
            linked = np.searchsorted(places, (mine.file[near] << np.int64(32)) + mine.row[near])
            for other in linked.tolist():
                _join(parent, start + offset, other)
        if told is not None:
            told(len(found))
    roots = np.array([_root(parent, place) for place in range(len(parent))], dtype=np.int64)
    _, inverse, counts = np.unique(roots, return_inverse=True, return_counts=True)
    member = np.flatnonzero(counts[inverse] > 1).astype(np.int64)
    # The root of a group is its first image, so groups are numbered in the order of the collection.
    order = np.argsort(roots[member], kind="stable")
    member = member[order]
    first = roots[member]
    group = np.unique(first, return_inverse=True)[1].astype(np.int64)
    return Groups(group=group, member=member, similarity=_cosines(index, live, first, member))


def _asked(index: SearchIndex, live: Candidates, options: SearchOptions) -> Iterator[tuple[int, list[Candidates]]]:
    for start in range(0, len(live), CHUNK):
        part = slice(start, start + CHUNK)
        yield start, index.candidates(index.stored.vectors(live.file[part], live.row[part]), options)


def _root(parent: Ints, place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = int(parent[place])
    return place


def _join(parent: Ints, one: int, other: int) -> None:
    a, b = _root(parent, one), _root(parent, other)
    parent[max(a, b)] = min(a, b)


def _cosines(index: SearchIndex, live: Candidates, first: Ints, member: Ints) -> Floats:
    out = np.zeros(len(member), np.float32)
    for start in range(0, len(member), CHUNK):
        part = slice(start, start + CHUNK)
        pair = [index.stored.vectors(live.file[rows[part]], live.row[rows[part]]) for rows in (first, member)]
        lengths = [np.linalg.norm(vectors, axis=1) for vectors in pair]
        out[part] = np.einsum("nd,nd->n", *pair) / np.maximum(lengths[0] * lengths[1], 1e-12)
    return out
