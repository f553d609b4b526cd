"""Node-local staging: temporary folders of one process, which the next process clears away if that one was killed.

Each process holds a lock on a folder of its own for as long as it lives. Whoever finds a folder whose lock is free
knows that its owner is dead, in whatever container or process namespace it ran.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import stat
import tempfile
import threading
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from pipeline.core.errors import UserError
from pipeline.core.os_errors import UNWRITABLE, using

_GUARD = threading.Lock()
_mine: tuple[int, Path, int] | None = None
"""Process id, folder and locked descriptor of this process."""


def folder(prefix: str = "stage-") -> tempfile.TemporaryDirectory[str]:
    """Return an empty folder on local disk, removed when its block ends, or after the process that made it died.

    PlaceError when there can be none, and from a block during which the disk is found full or read-only: errors without
    translation are of files in this folder, since stores translate theirs.
    """
    with writing():
        return _Folder(prefix=prefix, dir=_own())


class _Folder(tempfile.TemporaryDirectory[str]):
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing():
            super().__exit__(kind, error, trace)
            if isinstance(error, OSError) and error.errno in UNWRITABLE:
                raise error


def writing() -> AbstractContextManager[None]:
    """Return a block in which every OSError is one of writing in these folders: PlaceError names where they lie."""
    return using(str(base()))


def base() -> Path:
    """Return where all processes of this user stage, below the temporary folder that TMPDIR names."""
    return Path(tempfile.gettempdir()) / f"sightline-{os.getuid()}"


def _own() -> Path:
    global _mine  # noqa: PLW0603 - one folder per process is the point
    with _GUARD:
        if _mine is None or _mine[0] != os.getpid() or not _mine[1].is_dir():
            place = _safe(base())
            sweep(place)
            path, descriptor = _locked(place)
            path.mkdir(mode=0o700)
            _mine = (os.getpid(), path, descriptor)
            atexit.register(_leave, _mine)
        return _mine[1]


def _safe(place: Path) -> Path:
    """Create the base; refuse one that others own or may write to, since /tmp is everybody's."""
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(str(place), "is not a folder of this user alone", "remove it, or set TMPDIR")
    return place


def _locked(place: Path) -> tuple[Path, int]:
    """Return the name of a new folder, and the descriptor that holds its lock."""
    while True:
        path = place / uuid.uuid4().hex[:12]
        lock = path.with_suffix(".lock")
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Before it was locked, a sweep may have taken the file for that of a dead process.
        if lock.exists() and lock.stat().st_ino == os.fstat(descriptor).st_ino:
            return path, descriptor
        os.close(descriptor)


def sweep(place: Path) -> list[str]:
    """Remove the folders of dead processes; return their names."""
    gone = []
    for lock in sorted(place.glob("*.lock")):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
            gone.append(lock.stem)
        finally:
            os.close(descriptor)
    return gone


def _leave(mine: tuple[int, Path, int]) -> None:
    pid, path, _ = mine
    if pid == os.getpid():
        shutil.rmtree(path, ignore_errors=True)
        path.with_suffix(".lock").unlink(missing_ok=True)
