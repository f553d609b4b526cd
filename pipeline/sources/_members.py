"""Single members of tar archives, by a table of where each begins: the headers of an archive are walked once.

For pictures beside results. Indexing streams archives instead, and judges whether they are whole; see tar.py.
"""

from __future__ import annotations

import tarfile
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from pipeline.core.errors import ShardError
from pipeline.core.storage import Store
from pipeline.core.types import Entry
from pipeline.sources import MAX_IMAGE_BYTES
from pipeline.sources._files import label

_ARCHIVES, _MEMBERS = 64, 500_000
"""Tables that are kept at most, and members in all of them: some 200 bytes each. One larger table is kept alone."""
Table = dict[str, tuple[int, int]]
"""Offset and size of each regular member by its name, as keys show it; the first of equal names."""


@dataclass(eq=False)
class _Archive:
    """table: None until the archive has been walked, which whoever holds the lock does. users: who has it in hand."""

    table: Table | None = None
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Members:
    """Reads members of archives in a store; keeps the tables of the latest archives. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._archives: OrderedDict[tuple[str, str], _Archive] = OrderedDict()
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
        which = (entry.path, entry.etag)
        with self._lock:
            archive = self._archives.setdefault(which, _Archive())
            self._archives.move_to_end(which)
            archive.users += 1
        try:
            # Others wait here for the same archive only, and find it walked.
            with archive.lock:
                if archive.table is None:
                    archive.table = self._walked(entry)
                return archive.table
        finally:
            with self._lock:
                archive.users -= 1
                self._forget()

    def _forget(self) -> None:
        """Let go of archives that nobody has in hand: those that failed, and the oldest until the rest is in bounds."""
        idle = [which for which, archive in self._archives.items() if not archive.users]
        for which in idle:
            if self._archives[which].table is None:
                del self._archives[which]
        members = sum(len(archive.table or ()) for archive in self._archives.values())
        latest = next(reversed(self._archives), None)
        for which in idle:
            if members <= _MEMBERS and len(self._archives) <= _ARCHIVES:
                return
            if which in self._archives and which != latest:
                members -= len(self._archives.pop(which).table or ())

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
