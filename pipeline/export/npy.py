"""A matrix of all live vectors as NumPy reads it, and their names, one per line: X.npy and X.txt.

The source kind `npy` reads it back, by the recipe that is written beside. Written in pieces: the matrix is never held
whole.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline.export import NAMES, count, names, rows, write_names
from pipeline.search.engine import SearchIndex
from pipeline.stages.kinds import extract_spec

MATRIX, LINES, RECIPE = "X.npy", "X.txt", "recipe.toml"


def write(index: SearchIndex, folder: Path, kind: str) -> list[str]:  # noqa: ARG001 - part of the protocol
    """Write X.npy (n, d) float32, X.txt, names.parquet, which also holds what a line cannot, and recipe.toml."""
    shape = (count(index), index.dim)
    matrix = np.lib.format.open_memmap(folder / MATRIX, mode="w+", dtype=np.float32, shape=shape)
    for numbers, vectors in rows(index):
        matrix[numbers[0] : numbers[-1] + 1] = vectors
    matrix.flush()
    del matrix
    write_names(index, folder / NAMES)
    with (folder / LINES).open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for _, named in names(index):
            file.writelines(f"{_line(image.key)}\n" for image in named)
    (folder / RECIPE).write_text(_recipe(index), encoding="utf-8")
    return [MATRIX, LINES, NAMES, RECIPE]


def _line(key: str) -> str:
    """Return a key as a line. It may hold anything; a name takes one line and does not begin or end with a space."""
    if "\n" not in key and "\r" not in key and key == key.strip():
        return key
    inner = key.strip(" ")
    before, after = len(key) - len(key.lstrip(" ")), len(key) - len(key.rstrip(" "))
    return "\\x20" * before + inner.encode("unicode_escape").decode() + "\\x20" * (after if inner else 0)


def _recipe(index: SearchIndex) -> str:
    """Return the recipe by which the matrix is indexed again as it is."""
    origin = json.dumps(extract_spec(index.snapshot.recipe).label)
    kinds = "\n".join(f"[indexes.{kind}]" for kind in index.kinds)
    return (
        f"# Vectors of {MATRIX}: sightline index FOLDER ROOT --recipe FOLDER/{RECIPE}\n"
        '[source]\nkind = "npy"\n\n'
        f'[extractor]\nkind = "precomputed"\ndim = {index.dim}\norigin = {origin}\n\n{kinds}\n'
    )
