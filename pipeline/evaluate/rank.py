"""Rankings of a snapshot, for evaluation: of query images, or of every indexed image, itself left out.

Queries are ranked in chunks, so memory does not grow with their number. Scoring is in tally.py; no model runs here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.types import Floats, Ints
from pipeline.evaluate.results import Ranking
from pipeline.search.augment import Augmented
from pipeline.search.engine import Hit, SearchIndex, SearchOptions
from pipeline.search.find import find
from pipeline.search.indexed import stored_query
from pipeline.search.merge import Candidates
from pipeline.search.query import Query

PAIRS, HITS = 1 << 21, 1 << 18
"""Results that are held at a time, as numbers and as hits."""
NAMES = 1 << 16
COMPLETE = 20_000
"""Images up to which each of them is ranked against all others unless a depth is asked for: n² results are made."""
LEAST_DEPTH = 1000


@dataclass(frozen=True, kw_only=True)
class Collection:
    """The live images of a snapshot: where they lie, and the key of each."""

    live: Candidates
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.keys)


def collection(index: SearchIndex) -> Collection:
    """Return the live images, in the order of the snapshot."""
    live = index.live()
    keys: list[str] = []
    for start in range(0, len(live), NAMES):
        part = slice(start, start + NAMES)
        keys += [name.key for name in index.stored.names(live.file[part], live.row[part])]
    return Collection(live=live, keys=keys)


def depth_for(images: int, largest: int) -> int:
    """Return how deep to rank the others: all in small collections, else twice the largest class, at least 1000."""
    others = max(1, images - 1)
    return others if images <= COMPLETE else min(others, max(LEAST_DEPTH, 2 * largest))


class Ranker:
    """Ranks queries against a snapshot, and names results from memory.

    Read for every ranking, names would be the collection read once per query.
    """

    def __init__(
        self,
        index: SearchIndex,
        images: Collection,
        options: SearchOptions,
        augment: tuple[int, float] | None = None,
    ) -> None:
        self._index, self._images, self._options = index, images, options
        self._augmented = None if augment is None else Augmented(index, *augment)
        self._places = (images.live.file << np.int64(32)) + images.live.row
        self._keys = np.array(images.keys, dtype=object)

    def by_queries(self, names: Sequence[str], queries: Sequence[Query]) -> Iterator[Ranking]:
        """Yield the ranking of each query."""
        step = self._step()
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            found = self._found(part) if self._by_images else self._of_vectors(_vectors(part))
            yield from map(_named, names[start : start + step], found)

    def leave_one_out(self, numbers: Ints) -> Iterator[Ranking]:
        """Yield the ranking of the others for images by their numbers (q,), one fewer than options.k.

        Where options ask for expansion, the query's own vector takes part in it like any other.
        """
        step, live, stored = self._step(), self._images.live, self._index.stored
        for start in range(0, len(numbers), step):
            part = numbers[start : start + step]
            if self._by_images:
                found = self._found(
                    [stored_query(self._index, *where, local=True) for where in zip(*self._where(part), strict=True)]
                )
            else:
                found = self._of_vectors(stored.vectors(live.file[part], live.row[part]))
            for number, ranking in zip(part.tolist(), found, strict=True):
                yield without(_named(self._images.keys[number], ranking), self._options.k - 1)

    def _step(self) -> int:
        held = HITS if self._by_images or self._augmented is not None else PAIRS
        return max(1, held // self._options.k)

    @property
    def _by_images(self) -> bool:
        """Whether more of a query is needed than its one vector."""
        return self._augmented is None and (self._index.is_local or self._options.verify > 0)

    def _found(self, queries: Sequence[Query]) -> list[Ranking]:
        return [_of_hits(hits) for hits in find(self._index, queries, self._options)]

    def _of_vectors(self, vectors: Floats) -> list[Ranking]:
        if self._augmented is not None:
            return [_of_hits(hits) for hits in self._augmented.find(vectors, self._options)]
        found = self._index.candidates(vectors, self._options)
        numbers = [np.searchsorted(self._places, (mine.file << np.int64(32)) + mine.row) for mine in found]
        return [
            Ranking(query="", keys=self._keys[place].tolist(), scores=mine.score)
            for place, mine in zip(numbers, found, strict=True)
        ]

    def _where(self, numbers: Ints) -> tuple[list[int], list[int]]:
        return self._images.live.file[numbers].tolist(), self._images.live.row[numbers].tolist()


def _vectors(queries: Sequence[Query]) -> Floats:
    return np.stack([query.batch.vectors[0] for query in queries])


def without(ranking: Ranking, k: int) -> Ranking:
    """Return the k first others: a ranking from which its own query is taken out."""
    keys = list(ranking.keys)
    if ranking.query not in keys:
        return replace(ranking, keys=keys[:k], scores=ranking.scores[:k])
    own = keys.index(ranking.query)
    return replace(ranking, keys=(keys[:own] + keys[own + 1 :])[:k], scores=np.delete(ranking.scores, own)[:k])


def _of_hits(hits: Sequence[Hit]) -> Ranking:
    scores = np.array([hit.score for hit in hits], dtype=np.float32)
    return Ranking(query="", keys=[hit.key for hit in hits], scores=scores)


def _named(name: str, ranking: Ranking) -> Ranking:
    return replace(ranking, query=name)
