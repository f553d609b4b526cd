"""Walking a local folder: its regular files in byte order of their names, whatever happens to it meanwhile.

What vanishes while the walk is under way is not listed. A folder that cannot be read is never taken for an empty one:
it is noted, or ends the walk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import ReadError
from pipeline.core.names import escaped
from pipeline.core.types import Entry

TEMPORARY = ".sightline-tmp-"
"""How names of files begin that are not finished; they are never listed."""
_VANISHED = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Also what a link that leads nowhere, or to itself, answers."""


@dataclass(kw_only=True)
class Walk:
    """What a walk came upon beside files. unreadable: folders, as "path/", the top one as ""; files of them may have
    been listed. special: number of pipes, sockets, devices, and links that lead nowhere.
    """

    unreadable: list[str] = field(default_factory=list)
    special: int = 0


def local_entry(name: str, stat: os.stat_result) -> Entry:
    """Return the entry of a file; its etag is made of modification time and size.

    Both can be what they were over other bytes: whoever restores the time of a file that was written to changes its
    ctime. The inode says no more than that, and differs from mount to mount on many file systems.
    """
    etag = f"{stat.st_mtime_ns:x}-{stat.st_size:x}"
    return Entry(path=name, size=stat.st_size, etag=etag, modified=stat.st_mtime_ns / 1e9, changed=stat.st_ctime_ns)


def walk_folder(folder: str, prefix: str, noted: Walk | None, place: str = "") -> Iterator[Entry]:
    """Yield the files beneath a folder, whose names begin with `prefix`; links are followed, link cycles are not.

    Folders that cannot be read are noted; ReadError, which names the place, where nothing notes them.
    """
    yield from _Walker(noted, place).walk(folder, prefix, frozenset())


def unfinished_files(folder: str, place: str) -> Iterator[str]:
    """Yield the paths of unfinished files beneath a folder; ReadError, with the place, where one cannot be read."""

    def note(error: OSError) -> None:
        if error.errno not in _VANISHED:
            raise ReadError(f"its folders cannot be listed ({error.strerror or error})").at(place) from error

    for path, _, names in os.walk(folder, onerror=note):
        yield from (os.path.join(path, name) for name in names if name.startswith(TEMPORARY))  # noqa: PTH118


class _Walker:
    def __init__(self, noted: Walk | None, place: str) -> None:
        self._noted, self._place = noted, place

    def walk(self, folder: str, prefix: str, above: frozenset[str]) -> Iterator[Entry]:
        real = os.path.realpath(folder)
        if real in above:
            return
        for name, entry in self._children(folder, prefix):
            if name.endswith("/"):
                yield from self.walk(entry.path, prefix + name, above | {real})
                continue
            try:
                if entry.is_file():
                    yield local_entry(prefix + name, entry.stat())
                    continue
            except OSError as error:
                self._unreadable(prefix, error)
                if error.errno != errno.ELOOP:
                    continue
            if self._noted is not None and (entry.is_symlink() or Path(entry.path).exists()):
                self._noted.special += 1

    def _children(self, folder: str, prefix: str) -> list[tuple[str, os.DirEntry[str]]]:
        """Return what lies in a folder, in byte order of the names that result; folders' names end in "/"."""
        found = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith(TEMPORARY):
                        name = escaped(entry.name)
                        found.append((name + "/" if self._is_folder(entry, prefix) else name, entry))
        except OSError as error:
            self._unreadable(prefix, error)
        return sorted(found, key=lambda pair: pair[0].encode())

    def _is_folder(self, entry: os.DirEntry[str], prefix: str) -> bool:
        try:
            return entry.is_dir()
        except OSError as error:
            self._unreadable(prefix, error)
            return False

    def _unreadable(self, prefix: str, error: OSError) -> None:
        if error.errno in _VANISHED:
            return
        if self._noted is None:
            line = f"{prefix or 'the folder'}: cannot be listed ({error.strerror or error})"
            raise ReadError(line).at(self._place) from error
        if prefix not in self._noted.unreadable:
            self._noted.unreadable.append(prefix)
