"""Seeded samples of what a snapshot holds: of live images, of stored vectors. The same for the same snapshot.

Drawn from few descriptor files, in a seeded order, as fits are (stages/sample.py): reading a sample costs about as much
for a billion images as for a million.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.types import DescriptorFile, Ints
from pipeline.publish import manifests
from pipeline.publish.lists import Lists
from pipeline.search.merge import Candidates
from pipeline.stages.sample import sample_files, sample_places


def live_images(lists: Lists, wanted: int, seed: int) -> Candidates:
    """Return at most `wanted` images that are part of the collection, in the order of the snapshot; scores are zero.

    rows are numbers of images, of a global descriptor also of vectors. Fewer come only where there are fewer.
    """
    dead = manifests.tombstones(lists.tombstones)
    none, asked, rows = np.zeros(0, np.int64), wanted, 2 * manifests.total(lists.descriptors, "rows")
    while True:
        files = _files(lists, asked, seed)
        live = [np.setdiff1d(np.arange(file.indexed), dead.get(file.id, none)) for file in files]
        if sum(map(len, live)) >= wanted or asked > rows:
            break
        # Files are counted by their rows: some are buried, and of local descriptors an image has many.
        asked *= 2
    places = sample_places([len(rows) for rows in live], wanted, seed)
    return _placed(lists, files, [there[mine] for there, mine in zip(live, places, strict=True)])


def stored_vectors(lists: Lists, wanted: int, seed: int) -> Candidates:
    """Return at most `wanted` stored vectors, by file and row; of local descriptors those of buried images too."""
    files = _files(lists, wanted, seed)
    return _placed(lists, files, sample_places([file.rows for file in files], wanted, seed))


def _files(lists: Lists, wanted: int, seed: int) -> tuple[DescriptorFile, ...]:
    if not manifests.total(lists.descriptors, "rows"):
        return ()
    return sample_files(lists.descriptors, wanted, seed)


def _placed(lists: Lists, files: tuple[DescriptorFile, ...], rows: list[Ints]) -> Candidates:
    """Return rows by the numbers that their files have in the snapshot."""
    column = lists.descriptors["id"].combine_chunks()
    numbers = pc.index_in(pa.array([file.id for file in files], pa.string()), column).to_pylist()
    none = np.zeros(0, np.int64)
    file = np.concatenate([none, *(np.full(len(mine), n, np.int64) for n, mine in zip(numbers, rows, strict=True))])
    row = np.concatenate([none, *rows]).astype(np.int64)
    order = np.lexsort((row, file))
    return Candidates(score=np.zeros(len(file), np.float32), file=file[order], row=row[order])
