"""A matrix of all live vectors as NumPy reads it, and their names, one per line: X.npy and X.txt.

The source kind `npy` reads it back. Written in pieces: the matrix is never held whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.core.errors import UserError
from pipeline.export import rows, write_names
from pipeline.search.engine import SearchIndex

MATRIX, LINES, NAMES = "X.npy", "X.txt", "names.parquet"


def write(index: SearchIndex, folder: Path, kind: str) -> list[str]:  # noqa: ARG001 - part of the protocol
    """Write X.npy (n, d) float32, X.txt, and names.parquet, which also holds what a line cannot."""
    count = len(index.live())
    if not count:
        raise UserError("export", "would be empty: the snapshot holds no images", "index images first")
    matrix = np.lib.format.open_memmap(folder / MATRIX, mode="w+", dtype=np.float32, shape=(count, index.dim))
    for numbers, vectors in rows(index):
        matrix[numbers[0] : numbers[-1] + 1] = vectors
    matrix.flush()
    del matrix
    write_names(index, folder / NAMES)
    live = index.live()
    with (folder / LINES).open("w", encoding="utf-8", newline="\n") as file:
        for name in index.stored.names(live.file, live.row):
            # A key may hold anything; a name takes one line.
            file.write(name.key.encode("unicode_escape").decode() + "\n" if "\n" in name.key else name.key + "\n")
    return [MATRIX, LINES, NAMES]
