"""Collections that several exports are tried on."""

from __future__ import annotations

from pathlib import Path

from jobs.recipe import RecipeOptions
from pipeline.core.types import Floats
from pipeline.search.engine import SearchIndex, SearchOptions
from tests.builders import QUICK, images, run, write_files, write_parquet

ODD = [
    *("../above.jpg", "../../far.jpg", "/root.jpg", "twice//cut.jpg", "./here.jpg", "in/./side.jpg", "end/", "..", "."),
    *("a", "a/b", "a/global_descriptor", "global_descriptor", "a.gfeat", "a.gfeat/c"),
    *("Smith, John.jpg", "back\\slash.jpg", "two\nlines.jpg", "nul\0.jpg", "Straße 東京.jpg", "two  blanks.jpg"),
    *("100%.jpg", "Caf%C3%A9%20au.jpg", "%2F.jpg", "%252F.jpg", "twice%2F/cut.jpg", "Smith%2C John.jpg"),
]
"""Names of images that some form or other cannot hold as they are. None is the name of another."""


def nested(folder: Path, kinds: tuple[str, ...] = ("flat",), count: int = 30) -> Path:
    """Index a folder with folders inside; return the ROOT."""
    files = {
        f"{'db' if number % 3 else 'query/day'}/{name}": data
        for number, (name, data) in enumerate(images(count).items())
    }
    source = write_files(folder / "src", files)
    run(source, folder / "root", recipe=RecipeOptions(**{**vars(QUICK), "indexes": kinds}), files=7)
    return folder / "root"


def odd(folder: Path, names: list[str] = ODD) -> Path:
    """Index a Parquet file of images with odd names; the keys are its own name, a slash and theirs. Return the ROOT."""
    pictures = images(len(names)).values()
    write_parquet(folder / "src" / "data.parquet", dict(zip(names, pictures, strict=True)))
    run(folder / "src", folder / "root")
    return folder / "root"


def stored(root: Path) -> dict[str, Floats]:
    """Return the descriptors of a ROOT by key."""
    with SearchIndex.open(str(root)) as index:
        live = index.live()
        keys = [named.key for named in index.stored.names(live.file, live.row)]
        return dict(zip(keys, index.stored.vectors(live.file, live.row), strict=True))


def neighbours(root: Path, queries: Floats, k: int, kind: str = "flat") -> list[list[str]]:
    """Return the keys of the k nearest by our own search, without re-ranking."""
    with SearchIndex.open(str(root)) as index:
        found = index.search(queries, SearchOptions(k=k, index=kind, rerank=0))
    return [[hit.key for hit in hits] for hits in found]
