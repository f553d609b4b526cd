"""Single members of tar archives, by a table of where each begins: the headers of an archive are walked once.

For pictures beside results. Indexing streams archives instead, and judges whether they are whole; see tar.py.
"""

from __future__ import annotations

import tarfile
import threading
from collections import OrderedDict

from pipeline.core.errors import ShardError
from pipeline.core.storage import Store
from pipeline.core.types import Entry
from pipeline.sources import MAX_IMAGE_BYTES
from pipeline.sources._files import label

_ARCHIVES = 64
Table = dict[str, tuple[int, int]]
"""Offset and size of each regular member by its name, as keys show it; the first of equal names."""


class Members:
    """Reads members of archives in a store; keeps the tables of the latest archives. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tables: OrderedDict[tuple[str, str], Table] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, entry: Entry, name: str) -> bytes | None:
        """Return the bytes of a member; None when the archive has none of that name, or it is too large."""
        table = self._table(entry)
        if name not in table or table[name][1] > MAX_IMAGE_BYTES:
            return None
        offset, size = table[name]
        with self._store.open(entry.path) as file:
            file.seek(offset)
            data = file.read(size)
        return data if len(data) == size else None

    def _table(self, entry: Entry) -> Table:
        with self._lock:
            which = (entry.path, entry.etag)
            if which not in self._tables:
                self._tables[which] = self._walked(entry)
                if len(self._tables) > _ARCHIVES:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(which)
            return self._tables[which]

    def _walked(self, entry: Entry) -> Table:
        table: Table = {}
        try:
            with self._store.open(entry.path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.isreg() and not member.issparse():
                        table.setdefault(label(member.name), (member.offset_data, member.size))
                    archive.members = []  # type: ignore[attr-defined]  # typeshed leaves it out
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise ShardError(f"is no sound tar archive ({' '.join(str(error).split())})") from None
        return table
