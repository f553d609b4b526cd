"""Find images by images: global descriptors are searched, local ones vote; the best are verified by their geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.core.errors import UserError
from pipeline.geometry import Matching, verify
from pipeline.search.engine import Hit, SearchIndex, SearchOptions
from pipeline.search.merge import Candidates
from pipeline.search.query import Query
from pipeline.search.vote import voted

NEIGHBOURS = 10
"""Indexed local descriptors that each local descriptor of a query votes for."""


def find(
    index: SearchIndex, queries: Sequence[Query], options: SearchOptions, matching: Matching | None = None
) -> list[list[Hit]]:
    """Return the k best hits of each query, best first; UserError when no local descriptors are stored to verify with,
    or when queries were made by another recipe.

    Verified hits come in the order of their inliers, then of their score; those without any after them.
    """
    if options.verify and not index.stored.has_local:
        raise UserError("--verify", "needs local descriptors, and this snapshot stores none", "encode with keep = true")
    for query in queries:
        index.expect_recipe(query.recipe)
    wide = replace(options, k=max(options.k, options.verify))
    if index.is_local:
        if options.expand is not None:
            raise UserError("--expand", "is for global descriptors, these are local", "leave it out")
        found = [_by_votes(index, query, wide) for query in queries]
    else:
        stacked = [query.batch.vectors[0] for query in queries]
        found = index.candidates(np.stack(stacked), wide) if stacked else []
    return [_hits(index, query, mine, options, matching) for query, mine in zip(queries, found, strict=True)]


def _by_votes(index: SearchIndex, query: Query, options: SearchOptions) -> Candidates:
    single = replace(options, k=NEIGHBOURS, expand=None)
    return voted(index.candidates(query.batch.vectors, single)).first(options.k)


def _hits(
    index: SearchIndex, query: Query, found: Candidates, options: SearchOptions, matching: Matching | None
) -> list[Hit]:
    hits = index.hits(found)
    local = query.local
    if options.verify and local is not None:
        count = min(options.verify, len(found))
        verified = []
        for hit, file, row in zip(hits[:count], found.file.tolist(), found.row.tolist(), strict=False):
            image, size = index.stored.local(file, row)
            result = verify(local, image, max(size), matching or Matching())
            box = result.box(query.width, query.height, size)
            verified.append(replace(hit, inliers=result.inliers, box=box))
        # The sort is stable: equals keep the order of their scores.
        hits = sorted(verified, key=lambda hit: -(hit.inliers or 0)) + hits[count:]
    return hits[: options.k]
