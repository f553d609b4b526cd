"""One faiss index over all live images, and a table of their names: for whoever serves with plain faiss.

The index is filled anew from the stored vectors, with the trained quantisers of the snapshot, so that it holds no
tombstones and its ids are the rows of `names.parquet`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.export import rows, write_names
from pipeline.search.engine import SearchIndex

NAMES = "names.parquet"


def write(index: SearchIndex, folder: Path, kind: str) -> list[str]:
    """Write index.faiss (or .safetensors for kinds that are not one faiss file) and names.parquet."""
    spec = index.spec(kind)
    trained = index.trained(spec)
    if trained is None:
        raise UserError(f"--index {spec.kind}", "has no index shard to take the trained index from", "index images")
    name = f"index{spec.suffix}"
    copy = folder / f"trained{spec.suffix}"
    shutil.copyfile(trained, copy)
    spec.fill(copy, rows(index), folder / name)
    copy.unlink()
    write_names(index, folder / NAMES)
    return [name, NAMES]
