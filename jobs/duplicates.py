"""`sightline duplicates`: groups of near-duplicates, as counts on the terminal, as a Parquet table and as a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import page
from jobs._main import run_module
from jobs.output import printable
from jobs.pictures import Picture, Pictures
from jobs.progress import Reporter
from jobs.recipe_file import read_recipe
from pipeline.core import staging
from pipeline.core.storage import split_location
from pipeline.core.types import Ints
from pipeline.publish.snapshot import Snapshot
from pipeline.search.duplicates import CHUNK, Groups, groups
from pipeline.search.engine import SearchIndex
from pipeline.stages.kinds import extract_spec

RECIPE = "duplicates"
"""The named recipe for it: one size for all images, so that copies of another size are alike."""
THRESHOLD, RECIPE_THRESHOLD = 0.95, 0.85
"""Cosines from which images are linked; the second where that recipe made the ROOT."""
TOLD = 10
"""Groups named on the terminal and in the JSON."""
MEMBERS = 24
"""Pictures of one group on the page."""


@dataclass(frozen=True, kw_only=True)
class DuplicatesOptions:
    """Which ROOT, from which cosine on. out: a .parquet file, page: a .html file, local or s3://; "" writes none.

    shown: groups on the page, the largest first. threshold None: that of the recipe that made the ROOT.
    """

    root: str
    threshold: float | None = None
    neighbours: int = 20
    index: str = ""
    out: str = ""
    page: str = ""
    shown: int = 50


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group as a page shows it: how many images it has, and the first of them."""

    size: int
    members: tuple[Picture, ...]


def duplicates(options: DuplicatesOptions, reporter: Reporter) -> dict[str, Any]:
    """Return {"snapshot", "threshold", "images", "groups", "members", "largest": [[key, ...]], "recipe_note"}; write.

    recipe_note: what is to be known of a ROOT that another recipe made, "" for none.
    """
    with SearchIndex.open(options.root) as index:
        note = recipe_note(index.snapshot)
        if note:
            reporter.say(f"note: {note}")
        threshold = options.threshold if options.threshold is not None else THRESHOLD if note else RECIPE_THRESHOLD
        with reporter.phase("compare", -(-index.images // CHUNK), "chunks") as phase:
            found = groups(index, threshold, neighbours=options.neighbours, kind=options.index, told=phase.advance)
        table = _table(index, found)
        if options.out:
            _upload(table, options.out)
        sizes = sizes_of(found)
        keys = table["key"].to_pylist()
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        data: dict[str, Any] = {
            "snapshot": index.snapshot.version,
            "threshold": threshold,
            "images": index.images,
            "groups": len(sizes),
            "members": len(keys),
            "largest": [keys[starts[number] : starts[number + 1]] for number in _largest(sizes, TOLD)],
            "recipe_note": note,
        }
        if options.page:
            data["page"] = {"out": options.page, "bytes": _write_page(index, found, options, reporter, data)}
        return data


def recipe_note(snapshot: Snapshot) -> str:
    """Return which other recipe made a snapshot and what that means for duplicates; "" where it was `duplicates`."""
    if snapshot.recipe_file == read_recipe(RECIPE).digest:
        return ""
    recipe = snapshot.recipe
    resize = getattr(recipe.extractor, "resize", "")
    return (
        f"this ROOT was not made by --recipe {RECIPE} but by {extract_spec(recipe).label}"
        + (f", {resize}" if resize else "")
        + ": copies of another size, mirrored or cropped may be missed"
    )


def sizes_of(found: Groups) -> Ints:
    """Return how many images each group has, (groups,)."""
    return np.bincount(found.group).astype(np.int64) if len(found.group) else np.zeros(0, np.int64)


def _largest(sizes: Ints, count: int) -> list[int]:
    order: list[int] = np.argsort(-sizes, kind="stable")[:count].tolist()
    return order


def shown_groups(
    index: SearchIndex, found: Groups, pictures: Pictures, *, shown: int, members: int = MEMBERS
) -> Iterator[Group]:
    """Yield the largest groups with the pictures of their first members, each with its cosine with the first."""
    live, sizes = index.live(), sizes_of(found)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    for number in _largest(sizes, shown):
        part = slice(starts[number], starts[number] + min(members, int(sizes[number])))
        rows = found.member[part]
        named = zip(index.stored.names(live.file[rows], live.row[rows]), found.similarity[part].tolist(), strict=True)
        made = (pictures.of(n.key, n.uri, score=score, size=(n.width, n.height)) for n, score in named)
        yield Group(size=int(sizes[number]), members=tuple(made))


def _write_page(
    index: SearchIndex, found: Groups, options: DuplicatesOptions, reporter: Reporter, data: dict[str, Any]
) -> int:
    pictures = Pictures(index.snapshot, index.row)
    shown = []
    with reporter.phase("pictures", min(options.shown, data["groups"]), "groups") as phase:
        for group in shown_groups(index, found, pictures, shown=options.shown):
            shown.append(group)
            phase.advance(len(group.members))
    values = {**data, "source": index.snapshot.source, "created_at": index.snapshot.created_at, "note": pictures.note}
    return page.write(options.page, page.render("duplicates.html", **values, shown=shown))


def _upload(table: pa.Table, out: str) -> None:
    store, name = split_location(out)
    with staging.folder("duplicates-") as folder:
        path = Path(folder) / "groups.parquet"
        pq.write_table(table, path, compression="zstd")
        store.upload(path, name)


def _table(index: SearchIndex, found: Groups) -> pa.Table:
    live = index.live()
    names = index.stored.names(live.file[found.member], live.row[found.member])
    return pa.table(
        {
            "group": pa.array(found.group),
            "key": pa.array([name.key for name in names], pa.string()),
            "uri": pa.array([name.uri for name in names], pa.string()),
            "similarity": pa.array(found.similarity),
        }
    )


def lines(data: dict[str, Any]) -> list[str]:
    """Return the groups in words: how many, and the largest."""
    head = (
        f"snapshot {data['snapshot']}: {data['groups']} groups of {data['members']} images in all, "
        f"of {data['images']}, at a cosine of {data['threshold']:g} or more"
    )
    shown = [
        f"  {len(keys)}: {', '.join(printable(key) for key in keys[:5])}" + (" ..." if len(keys) > 5 else "")
        for keys in data["largest"]
    ]
    return [head, *shown, *([f"page: {data['page']['out']}"] if "page" in data else [])]


if __name__ == "__main__":
    run_module("duplicates")
