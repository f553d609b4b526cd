"""Files that appear whole or not at all, under names that only one writer can take, and that survive a power failure.

A name is taken by a hard link, which fails when it exists; on file systems without hard links (exFAT, many SMB and FUSE
mounts) by a rename that replaces nothing. Where there is neither, nothing can be published safely: PlaceError.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import PlaceError

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_NO_RENAME = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM}
Take = Callable[[Path, Path], None]
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
"""From linux/fcntl.h and linux/fs.h."""


def write_durably(path: Path, source: BinaryIO) -> None:
    """Write a new file whose bytes are on disk when this returns."""
    with path.open("xb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, unless they exist, durably."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def replace(temporary: Path, path: Path) -> None:
    """Give a finished file its name, durably; what has the name already is replaced."""
    temporary.rename(path)
    sync_folder(path.parent)


def rename_exclusively(temporary: Path, path: Path) -> None:
    """Rename a file unless the new name exists (renameat2 of Linux); OSError with what hinders it."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    old, new = ctypes.c_char_p(os.fsencode(temporary)), ctypes.c_char_p(os.fsencode(path))
    if rename(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def create(temporary: Path, path: Path, *, link: Take = os.link, rename: Take = rename_exclusively) -> None:
    """Give a finished file a name that nobody has, durably; of several racers one succeeds, FileExistsError for others.

    `temporary` may still exist afterwards. link, rename: the two ways to take a name; each fails when it is taken.
    """
    try:
        link(temporary, path)
    except FileExistsError:
        # A server may have done it and its answer been lost: then both names are one file.
        if not path.samefile(temporary):
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _without_links(temporary, path, rename)
    sync_folder(path.parent)


def _without_links(temporary: Path, path: Path, rename: Take) -> None:
    try:
        rename(temporary, path)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        raise PlaceError(
            f"{path.parent}: its file system has neither hard links nor an exclusive rename, so that two runs could "
            "publish over each other; use a ROOT on another file system or on S3"
        ) from None


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk; file systems that cannot do so are left to themselves."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)
