"""A process that is killed with signal 9 at a named point of an operation, on whatever stores it is given."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import memory
from pipeline.core.storage import open_store
from pipeline.search.engine import SearchIndex, SearchOptions
from tests.faulty import Watched
from tests.life import Life, toy_kinds

Point = tuple[str, str, str, str, str]
"""(which store, kind of storage operation, beginning of the name, its end, before | after | torn)."""

POINTS: dict[str, Point] = {
    "E1": ("source", "open", "", "", "before"),
    "E2": ("source", "open", "", "", "after"),
    "E3": ("", "", "", "", ""),
    "E4": ("root", "upload", "descriptors/", ".parquet", "before"),
    "E5": ("root", "upload", "descriptors/", ".parquet", "torn"),
    "E6": ("root", "upload", "descriptors/", ".parquet", "after"),
    "E7": ("root", "put_if_absent", "descriptors/", ".json", "after"),
    "T1": ("root", "upload", "artifacts/", "", "before"),
    "T2": ("root", "upload", "artifacts/", "", "after"),
    "B1": ("root", "upload", "indexes/", "", "before"),
    "B2": ("root", "upload", "indexes/", "", "after"),
    "P1": ("root", "put_if_absent", "snapshots/", "", "before"),
    "P2": ("root", "put_if_absent", "snapshots/", "", "after"),
    "P4": ("root", "delete", "leases/", "", "before"),
    "G1": ("root", "delete", "descriptors/", "", "before"),
    "G2": ("root", "delete", "descriptors/", "", "after"),
    "R1": ("root", "local", "indexes/", "", "before"),
}
"""The crash points; P3 is no point of its own here, because there is no hint of the latest snapshot to be written."""


def carry_out(life: Life, point: str) -> None:
    """Do what has the point in it: an expiry, a reading, or an indexing run."""
    if point.startswith("G"):
        life.expire()
    elif point.startswith("R"):
        with SearchIndex.open(life.root) as index:
            index.search(np.ones((1, index.dim), np.float32), SearchOptions(index="ivfpq"))
    else:
        life.index(retrain="always" if point.startswith("T") else "auto")


def die(life: Life, source: str, point: str) -> None:
    """Carry the operation out in this process until the point; source: where its store really is."""
    os.environ["SIGHTLINE_VICTIM"] = point
    store, kind, start, end, when = POINTS[point]

    def hook(which: str) -> Callable[[str, str, Callable[..., Any]], Any]:
        def watch(now: str, name: str, act: Callable[..., Any]) -> Any:
            if (which, now) != (store, kind) or not (name.startswith(start) and name.endswith(end)):
                return act()
            if when == "after":
                act()
            if when == "torn" and "://" not in life.root:
                half = Path(life.root) / name
                half.parent.mkdir(parents=True, exist_ok=True)
                (half.parent / f".sightline-tmp-{uuid.uuid4().hex}").write_bytes(b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("killed")

        return watch

    memory.register("victim-source", Watched(open_store(source), hook("source")))
    memory.register("victim-root", Watched(open_store(life.root), hook("root")))
    with toy_kinds():
        carry_out(replace(life, root="memory://victim-root"), point)
