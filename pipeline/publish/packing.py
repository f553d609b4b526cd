"""Packing: how single images become shards. Packs are cut where the paths say so, not by counting from the first one.

A pack ends at the first path that its hash marks once the pack is half full, and at its bounds at the latest. So a
file that comes or goes changes the pack that it is in, and the packs after it are cut where they were: a run that is
repeated over a source that has grown meanwhile has the completion records of all others. It is content-defined
chunking, as Muthitacharoen, Chen and Mazieres use it in LBFS (2001), and Xia et al. in FastCDC (2016).
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.core.types import Ints

LEAST = 0.5
"""How full a pack is before a path may end it."""
MARKS = 8
"""Paths that would end a full pack, on average: a pack is cut at its bounds once in e^4 = 55."""
COUNTED = 16
"""Packs bounded to fewer files than this are cut by counting: there is nothing to choose from."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How single images are packed into shards: at most `files` files and about `bytes` bytes each."""

    files: int = 512
    bytes: int = 512 << 20


@dataclass(frozen=True, kw_only=True)
class Packs:
    """New shards: their ids (n,), and the place after the last entry of each (n,), counted over all new entries."""

    ids: pa.Array
    ends: Ints

    def names(self, start: int, end: int) -> pa.Array:
        """Return the shard ids of the new entries start..end."""
        return self.ids.take(pa.array(np.searchsorted(self.ends, np.arange(start, end), side="right")))


class Packer:
    """Assigns shard ids to new entries in the order they come; ids depend on the entries packed together only.

    packing None: every entry is a shard.
    """

    def __init__(self, source: str, packing: Packing | None) -> None:
        self.source, self.packing = source, packing
        self._ids: list[str] = []
        self._counts: list[int] = []
        self._files = self._bytes = 0
        self._hash = hashlib.sha256()

    def add(self, rows: pa.Table) -> None:
        """Pack rows (path, size, etag, shard) that follow those before; shard: why they are extracted again, or ""."""
        most, heaviest = (1, 0) if self.packing is None else (self.packing.files, self.packing.bytes)
        columns = (rows[name].to_pylist() for name in ("path", "size", "etag", "shard"))
        for path, size, etag, reason in zip(*columns, strict=True):
            if self._files and (self._files >= most or self._bytes + size > heaviest):
                self._close()
            # What is extracted again goes into a shard that has no record yet.
            mark = f"\0{reason}" if reason else ""
            self._hash.update(f"{join_url(self.source, path)}\0{size}\0{etag}{mark}\n".encode())
            self._files += 1
            self._bytes += size
            if most >= COUNTED and self._ends_at(path, size, most, heaviest):
                self._close()

    def finish(self) -> Packs:
        """Return the packs; nothing may be added any more."""
        self._close()
        return Packs(ids=pa.array(self._ids, pa.string()), ends=np.cumsum(self._counts, dtype=np.int64))

    def _ends_at(self, path: str, size: int, most: int, heaviest: int) -> bool:
        """Tell whether the path ends the pack: the more of a pack a file takes, the likelier it is marked."""
        if max(self._files / most, self._bytes / heaviest) < LEAST:
            return False
        share = max(1 / most, size / heaviest)
        return zlib.crc32(path.encode()) < MARKS * share * 2**32

    def _close(self) -> None:
        if self._files:
            self._ids.append(self._hash.hexdigest()[:20])
            self._counts.append(self._files)
        self._files = self._bytes = 0
        self._hash = hashlib.sha256()


def join_url(base: str, path: str) -> str:
    """Return the location of a path beneath a folder; a base that is the file itself stays as it is."""
    return base if base.rsplit("/", 1)[-1] == path else f"{base.rstrip('/')}/{path}"
