"""From the key of an image to its place in a snapshot, without a table of all keys in memory.

The listing is sorted by path, and a key is a listed path or lies beneath one (a container's): a few row groups of the
listing name the shard, and the keys of its descriptor file the row. Cost does not grow with the collection.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.types import Artifact
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.manifests import Rows
from pipeline.search.descriptors import StoredDescriptors

_FILES, _PLACES, _LONGEST = 64, 65_536, 512
Place = tuple[int, int]
"""Number of a descriptor file, in the order of the snapshot, and an image's row there."""


class Keys:
    """The live images of a snapshot by key; thread-safe. listing: the snapshot's, fetched when first needed."""

    def __init__(
        self, catalog: Catalog, listing: Artifact, lists: Lists, dead: Rows, stored: StoredDescriptors
    ) -> None:
        self._catalog, self._listing, self._dead, self._stored = catalog, listing, dead, stored
        self._shards = lists.descriptors["shard_id"].combine_chunks()
        self._ids = lists.descriptors["id"]
        self._file: pq.ParquetFile | None = None
        self._bounds: list[tuple[bytes, bytes] | None] = []
        self._keys: OrderedDict[int, pa.Array] = OrderedDict()
        self._places: OrderedDict[str, Place] = OrderedDict()
        self._lock = threading.Lock()

    def place(self, key: str, folder: Path) -> Place | None:
        """Return where a live image is; None when the snapshot has none of that key. folder: for remote copies."""
        with self._lock:
            if key in self._places:
                return self._places[key]
            place = self._find(key, folder)
            # Whoever asks chooses the keys: what is not there, or long, would fill the memory with anything.
            if place is not None and len(key) <= _LONGEST:
                self._places[key] = place
                if len(self._places) > _PLACES:
                    self._places.popitem(last=False)
            return place

    def _find(self, key: str, folder: Path) -> Place | None:
        for shard in self._shards_of(key, folder):
            for number in np.flatnonzero(pc.equal(self._shards, shard).to_numpy(zero_copy_only=False)).tolist():
                row = pc.index(self._keys_of(number), key).as_py()
                dead = self._dead.get(self._ids[number].as_py(), np.zeros(0, np.int64))
                if row >= 0 and row not in dead:
                    return int(number), int(row)
        return None

    def _shards_of(self, key: str, folder: Path) -> list[str]:
        """Return the shards of the listed paths that are the key or a folder above it, the longest path first."""
        above = [key[:end] for end in range(len(key), 0, -1) if end == len(key) or key[end] == "/"]
        file = self._opened(folder)
        wanted = pa.array(above, pa.string())
        found: dict[str, str] = {}
        for group, bounds in enumerate(self._bounds):
            if bounds is None or any(bounds[0] <= path.encode() <= bounds[1] for path in above):
                table = file.read_row_group(group, columns=["path", "shard"])
                hits = table.filter(pc.is_in(table["path"], wanted))
                found.update(zip(hits["path"].to_pylist(), hits["shard"].to_pylist(), strict=True))
        return [found[path] for path in above if path in found]

    def _opened(self, folder: Path) -> pq.ParquetFile:
        if self._file is None:
            self._file = pq.ParquetFile(self._catalog.fetch(self._listing, folder))
            self._bounds = [_bounds(self._file, group) for group in range(self._file.metadata.num_row_groups)]
        return self._file

    def _keys_of(self, number: int) -> pa.Array:
        if number not in self._keys:
            self._keys[number] = pa.array(self._stored.keys(number), pa.string())
            if len(self._keys) > _FILES:
                self._keys.popitem(last=False)
        self._keys.move_to_end(number)
        return self._keys[number]


def _bounds(file: pq.ParquetFile, group: int) -> tuple[bytes, bytes] | None:
    """Return the first and the last path of a row group; None where the file does not say."""
    statistics = file.metadata.row_group(group).column(0).statistics
    if statistics is None or not statistics.has_min_max:
        return None
    return str(statistics.min).encode(), str(statistics.max).encode()
