"""`sightline export`: the live images of a snapshot for those who serve with their own stack."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs._main import run_module
from pipeline.core import staging
from pipeline.core.errors import UserError
from pipeline.core.names import public_url
from pipeline.core.storage import open_store
from pipeline.export import Export
from pipeline.search.engine import SearchIndex

FORMS = {"faiss": "pipeline.export.plain_faiss", "npy": "pipeline.export.npy"}
"""Forms and the modules that write them."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export where. target: a folder or prefix that is empty; index: the kind, for forms that hold an index."""

    root: str
    target: str
    form: str = "faiss"
    index: str = ""
    version: int | None = None


def export(options: ExportOptions) -> dict[str, Any]:
    """Return {"snapshot", "form", "index", "images", "dimensions", "files": {name: bytes}}."""
    if options.form not in FORMS:
        raise UserError(f"--form {options.form}", "is not known", f"choose one of {', '.join(FORMS)}")
    writer: Export = importlib.import_module(FORMS[options.form])
    target = open_store(options.target)
    if next(iter(target.list()), None) is not None:
        raise UserError(public_url(options.target), "is not empty", "name another folder")
    with SearchIndex.open(options.root, options.version) as index, staging.folder("export-") as folder:
        files = writer.write(index, Path(folder), options.index)
        sizes = {name: (Path(folder) / name).stat().st_size for name in files}
        for name in files:
            target.upload(Path(folder) / name, name)
        return {
            "snapshot": index.snapshot.version,
            "form": options.form,
            "index": index.spec(options.index).kind if options.form == "faiss" else None,
            "images": index.images,
            "dimensions": index.dim,
            "files": sizes,
        }


def lines(data: dict[str, Any]) -> list[str]:
    """Return an export in words."""
    what = f"{data['index']} of " if data["index"] else ""
    files = ", ".join(f"{name} ({size} bytes)" for name, size in data["files"].items())
    return [f"snapshot {data['snapshot']}: {what}{data['images']} images of {data['dimensions']} dimensions: {files}"]


if __name__ == "__main__":
    run_module("export")
