"""`sightline export`: the live images of a snapshot for those who serve with their own stack."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs._main import run_module
from pipeline.core import staging
from pipeline.core.errors import UserError
from pipeline.core.names import public_url
from pipeline.core.prefetch import ordered_map
from pipeline.core.storage import Store, open_store
from pipeline.export import Export
from pipeline.search.engine import SearchIndex

FORMS = {
    "faiss": "pipeline.export.plain_faiss",
    "npy": "pipeline.export.npy",
    "hloc": "pipeline.export.hloc",
    "kapture": "pipeline.export.kapture",
    "hf": "pipeline.export.hf",
}
"""Forms and the modules that write them."""
WITH_INDEX = ("faiss", "hf")
"""Forms that hold an index of a kind."""
UPLOADS, IN_FLIGHT = 8, 256 << 20
"""Files, and bytes of files, that are uploaded side by side."""
LISTED, SHOWN = 100, 6
"""Files that the report names, and those that its words do; a form may be of one file per image."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export where. target: a folder or prefix that is empty; index: the kind, for forms that hold an index."""

    root: str
    target: str
    form: str = "faiss"
    index: str = ""
    version: int | None = None


def export(options: ExportOptions) -> dict[str, Any]:
    """Return {"snapshot", "form", "index", "images", "dimensions", "files": {name: bytes}, "more": {"files", "bytes"}}.

    files: the first LISTED; more: how many others there are, and their bytes.
    """
    if options.form not in FORMS:
        raise UserError(f"--form {options.form}", "is not known", f"choose one of {', '.join(FORMS)}")
    writer: Export = importlib.import_module(FORMS[options.form])
    target = open_store(options.target)
    if next(iter(target.list()), None) is not None:
        raise UserError(public_url(options.target), "is not empty", "name another folder")
    with SearchIndex.open(options.root, options.version) as index, staging.folder("export-") as folder:
        sizes: dict[str, int] = {}
        more = {"files": 0, "bytes": 0}
        for name, size in _uploaded(writer.write(index, Path(folder), options.index), Path(folder), target):
            if len(sizes) < LISTED:
                sizes[name] = size
            else:
                more = {"files": more["files"] + 1, "bytes": more["bytes"] + size}
        return {
            "snapshot": index.snapshot.version,
            "form": options.form,
            "index": index.spec(options.index).kind if options.form in WITH_INDEX else None,
            "images": index.images,
            "dimensions": index.dim,
            "files": sizes,
            "more": more,
        }


def _uploaded(names: Iterable[str], folder: Path, target: Store) -> Iterator[tuple[str, int]]:
    """Move files to the target as they are named; yield names and sizes."""

    def size(name: str) -> int:
        return (folder / name).stat().st_size

    def upload(name: str) -> tuple[str, int]:
        length = size(name)
        target.upload(folder / name, name)
        (folder / name).unlink()
        return name, length

    with ThreadPoolExecutor(UPLOADS, "upload") as pool:
        yield from ordered_map(upload, names, pool=pool, ahead=4 * UPLOADS, budget=IN_FLIGHT, weigh=size)


def lines(data: dict[str, Any]) -> list[str]:
    """Return an export in words."""
    what = f"{data['index']} of " if data["index"] else ""
    files = [f"{name} ({size} bytes)" for name, size in data["files"].items()]
    rest = len(files) - SHOWN + data["more"]["files"]
    if rest > 0:
        bytes_of_rest = sum(list(data["files"].values())[SHOWN:]) + data["more"]["bytes"]
        files = [*files[:SHOWN], f"and {rest} more ({bytes_of_rest} bytes)"]
    head = f"snapshot {data['snapshot']}: {what}{data['images']} images of {data['dimensions']} dimensions"
    return [f"{head}: {', '.join(files)}"]


if __name__ == "__main__":
    run_module("export")
