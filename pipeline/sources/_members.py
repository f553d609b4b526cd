"""Single members of tar archives: by where indexing saw their bytes, or by a table of where each begins, for which the
headers of an archive are walked once. Names of members, as keys show them.

For pictures beside results. Indexing streams archives instead, and judges whether they are whole; see tar.py.
"""

from __future__ import annotations

import tarfile
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from pipeline.core.ranges import read_at
from pipeline.core.storage import Store
from pipeline.core.types import Entry, Span
from pipeline.sources import MAX_IMAGE_BYTES
from pipeline.sources._files import label
from pipeline.sources._tar_stream import BROKEN, Header, unsound

_ARCHIVES, _MEMBERS = 64, 500_000
"""Tables that are kept at most, and members in all of them: some 200 bytes each. One larger table is kept alone."""
Table = dict[str, Span]
"""Where the bytes of each regular member lie, by its name as keys show it."""
Rules = Literal[1, 2]
"""How members are read; see tar.Spec."""


def member_name(text: str, rules: Rules) -> str:
    """Return a member's name as keys show it: a label, never a path. By rules 2 without "." and empty parts."""
    name = label(text)
    if rules == 1:
        return name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return ("/" if name.startswith("/") else "") + "/".join(parts)


def note(table: Table, member: tarfile.TarInfo, rules: Rules) -> None:
    """Enter a member into the table of those before it: by rules 1 the first of equal names counts, by 2 the last.

    By rules 2 a hard link has the bytes of the member that it names, if that lies before it.
    """
    name, span = member_name(member.name, rules), None
    if member.isreg() and not member.issparse():
        span = (member.offset_data, member.size)
    elif rules == 2 and member.islnk():
        span = table.get(member_name(member.linkname, rules))
    if rules == 1:
        if span is not None:
            table.setdefault(name, span)
    elif span is not None:
        table[name] = span
    elif not member.isdir():
        table.pop(name, None)


@dataclass(eq=False)
class _Archive:
    """table: None until the archive has been walked, which whoever holds the lock does. users: who has it in hand."""

    table: Table | None = None
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Members:
    """Reads members of archives in a store; keeps the tables of the latest archives. Thread-safe."""

    def __init__(self, store: Store, rules: Rules = 1) -> None:
        self._store, self._rules = store, rules
        self._archives: OrderedDict[tuple[str, str], _Archive] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, entry: Entry, name: str) -> bytes | None:
        """Return the bytes of a member; None when the archive has none of that name, or it is too large."""
        table = self._table(entry)
        if name not in table or table[name][1] > MAX_IMAGE_BYTES:
            return None
        return self.read_span(entry.path, table[name])

    def read_span(self, path: str, span: Span) -> bytes | None:
        """Return bytes of an archive, and read no others; None when it ends before them, or they are too many."""
        offset, size = span
        if size > MAX_IMAGE_BYTES:
            return None
        with self._store.open(path) as file:
            data = read_at(file, offset, size)
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
            with (
                self._store.open(entry.path) as file,
                tarfile.open(fileobj=file, mode="r:", tarinfo=Header, encoding="utf-8") as archive,
            ):
                before = -1
                for member in archive:
                    # A negative size leads back, and tarfile would walk the same members for ever.
                    if archive.offset <= before:
                        raise tarfile.ReadError(f"a member of {member.size} bytes")
                    before = archive.offset
                    note(table, member, self._rules)
                    archive.members = []  # type: ignore[attr-defined]  # typeshed leaves it out
        except BROKEN as error:
            raise unsound(error) from None
        return table
