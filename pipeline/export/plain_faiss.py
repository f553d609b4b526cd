"""One faiss index over all live images, and a table of their names: for whoever serves with plain faiss.

The index is filled anew from the stored vectors, with the trained quantisers of the snapshot, so that it holds no
tombstones and its ids are the rows of `names.parquet`.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.export import NAMES, write_index, write_names
from pipeline.search.engine import SearchIndex


def write(index: SearchIndex, folder: Path, kind: str) -> list[str]:
    """Write index.faiss (or .safetensors for kinds that are not one faiss file) and names.parquet."""
    name = write_index(index, folder, kind, "index")
    write_names(index, folder / NAMES)
    return [name, NAMES]
