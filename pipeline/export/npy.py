"""A matrix of all live vectors as NumPy reads it, and their names, one per line: X.npy and X.txt.

The source kind `npy` reads it back. Written in pieces: the matrix is never held whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.export import NAMES, count, names, rows, write_names
from pipeline.search.engine import SearchIndex

MATRIX, LINES = "X.npy", "X.txt"


def write(index: SearchIndex, folder: Path, kind: str) -> list[str]:  # noqa: ARG001 - part of the protocol
    """Write X.npy (n, d) float32, X.txt, and names.parquet, which also holds what a line cannot."""
    shape = (count(index), index.dim)
    matrix = np.lib.format.open_memmap(folder / MATRIX, mode="w+", dtype=np.float32, shape=shape)
    for numbers, vectors in rows(index):
        matrix[numbers[0] : numbers[-1] + 1] = vectors
    matrix.flush()
    del matrix
    write_names(index, folder / NAMES)
    with (folder / LINES).open("w", encoding="utf-8", newline="\n") as file:
        for _, named in names(index):
            # A key may hold anything; a name takes one line.
            keys = (image.key.encode("unicode_escape").decode() if "\n" in image.key else image.key for image in named)
            file.writelines(f"{key}\n" for key in keys)
    return [MATRIX, LINES, NAMES]
