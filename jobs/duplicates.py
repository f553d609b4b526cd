"""`sightline duplicates`: groups of near-duplicate images, as counts on the terminal and as a Parquet table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs._main import run_module
from jobs.progress import Reporter
from pipeline.core import staging
from pipeline.core.storage import split_location
from pipeline.search.duplicates import Groups, groups
from pipeline.search.engine import SearchIndex

SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class DuplicatesOptions:
    """Which ROOT, from which cosine on. out: a .parquet file, local or s3://; "" writes none."""

    root: str
    threshold: float = 0.95
    neighbours: int = 20
    index: str = ""
    out: str = ""


def duplicates(options: DuplicatesOptions, reporter: Reporter) -> dict[str, Any]:
    """Return {"snapshot", "threshold", "images", "groups", "members", "largest": [[key, ...]]}; write the table."""
    with SearchIndex.open(options.root) as index:
        with reporter.phase("compare", index.images, "images") as phase:
            found = groups(
                index, options.threshold, neighbours=options.neighbours, kind=options.index, told=phase.advance
            )
        table = _table(index, found)
        if options.out:
            store, name = split_location(options.out)
            with staging.folder("duplicates-") as folder:
                path = Path(folder) / "groups.parquet"
                pq.write_table(table, path, compression="zstd")
                store.upload(path, name)
        sizes = np.bincount(found.group) if len(found.group) else np.zeros(0, np.int64)
        keys = table["key"].to_pylist()
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        largest = np.argsort(-sizes, kind="stable")[:SHOWN]
        return {
            "snapshot": index.snapshot.version,
            "threshold": options.threshold,
            "images": index.images,
            "groups": len(sizes),
            "members": len(keys),
            "largest": [keys[starts[number] : starts[number + 1]] for number in largest],
        }


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
    shown = [f"  {len(keys)}: {', '.join(keys[:5])}" + (" ..." if len(keys) > 5 else "") for keys in data["largest"]]
    return [head, *shown]


if __name__ == "__main__":
    run_module("duplicates")
