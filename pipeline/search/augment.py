"""Database augmentation (α-DBA) as DIR has it, for measuring: every stored vector is expanded by its nearest others.

Exact and in memory, for collections of some 10^5 images; then queries, expanded against the augmented vectors if that
is asked for, are ranked by all of them. What is published stays as it is.
"""

from __future__ import annotations

from pipeline.core.errors import UserError
from pipeline.core.types import Floats
from pipeline.search.engine import Hit, SearchIndex, SearchOptions
from pipeline.search.expand import augment, best, expand
from pipeline.search.merge import Candidates, ranked

MOST = 200_000
"""Images; the products among them take n² operations of d."""


class Augmented:
    """The live vectors of a snapshot, augmented by `k` neighbours with weights of their similarity to the `alpha`."""

    def __init__(self, index: SearchIndex, k: int, alpha: float) -> None:
        if index.is_local:
            raise UserError("--augment", "is for global descriptors, these are local", "leave it out")
        if index.images > MOST:
            raise UserError("--augment", f"takes up to {MOST} images, there are {index.images}", "leave it out")
        self._index, self._places = index, index.live()
        plain = index.stored.vectors(self._places.file, self._places.row)
        self.vectors = augment(plain, k, alpha)

    def find(self, queries: Floats, options: SearchOptions) -> list[list[Hit]]:
        """Return the k best hits of each query (q, d), exactly; expanded first where options say so."""
        if options.verify:
            raise UserError("--augment", "ranks by vectors alone", "leave --verify out")
        if options.where:
            raise UserError("--augment", "ranks every image", "leave the condition out")
        if options.expand is not None and len(self.vectors):
            k, alpha = options.expand
            queries = expand(queries, self.vectors[best(queries @ self.vectors.T, k)], alpha)
        scores = queries @ self.vectors.T
        found = []
        for mine in scores:
            order = ranked([Candidates(score=mine, file=self._places.file, row=self._places.row)])
            found.append(self._index.hits(order.first(options.k)))
        return found
