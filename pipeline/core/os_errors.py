"""What errors of the operating system mean to a store: no such object, one that cannot be read, a place that is unfit.

Errors of reading say nothing of the bytes, so that whoever reads may try again later. An error of the place that is
written to (full, read-only, not permitted, not there any more) would meet every further write as well.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.core.errors import ExistsError, NotFoundError, PlaceError, ReadError, StoreError

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
_UNFIT = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EREMOTEIO, errno.ESTALE),
    *(errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ESHUTDOWN),
}
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that only writing meets."""
_SHELL = ("/dev/", "/proc/self/fd/")
"""Where a shell's pipes and standard input are named: only these are read though they are no regular files."""


@contextmanager
def reading(name: str, place: str = "") -> Iterator[None]:
    """Translate OSErrors of reading an object: NotFoundError when there is none of that name, else ReadError.

    place: where the object lies, for whoever reads the error.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise NotFoundError(f"{name}: no such object").at(place) from None
        raise ReadError(f"{name}: {error.strerror or error}").at(place) from error


@contextmanager
def writing(name: str, place: str) -> Iterator[None]:
    """Translate OSErrors of writing an object: PlaceError when nothing else could be written to `place` either."""
    try:
        yield
    except FileExistsError:
        raise ExistsError(f"{name}: exists already").at(place) from None
    except OSError as error:
        if error.errno in _UNFIT:
            raise unfit(place, error) from error
        raise StoreError(f"{name}: {error.strerror or error}").at(place) from error


@contextmanager
def using(place: str) -> Iterator[None]:
    """Translate OSErrors of a folder that work depends on, such as scratch space: any of them makes it unfit."""
    try:
        yield
    except OSError as error:
        raise unfit(place, error) from error


def unfit(place: str, error: OSError) -> PlaceError:
    """Return the error that names a place that cannot be written, and why."""
    remedy = "free space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the folder and its mount"
    return PlaceError(f"{place}: cannot be written ({error.strerror or error}); {remedy} and run again")


def open_file(path: Path, name: str, place: str = "") -> BinaryIO:
    """Open a regular file for reading; errors of later reads are translated too. Pipes and devices never block."""
    with reading(name, place):
        return cast("BinaryIO", io.BufferedReader(_File(path, name, place)))


def regular(found: os.stat_result, path: Path, name: str) -> os.stat_result:
    """Return what stat returned; NotFoundError for a pipe, a socket or a device, which could block or never end."""
    if stat.S_ISDIR(found.st_mode):
        raise NotFoundError(f"{name}: no such object")
    if not stat.S_ISREG(found.st_mode) and not str(path).startswith(_SHELL):
        raise NotFoundError(f"{name}: is no regular file")
    return found


class _File(io.FileIO):
    """A regular file whose reads raise our errors."""

    def __init__(self, path: Path, name: str, place: str) -> None:
        # Before it is opened: to open a pipe waits for its writer, to open a device may do anything.
        regular(path.stat(), path, name)
        super().__init__(path, "rb")
        self._shown, self._place = name, place

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None:  # type: ignore[override]  # any buffer
        with reading(self._shown, self._place):
            return super().readinto(buffer)

    def readall(self) -> bytes | None:  # type: ignore[override]  # typeshed: never None
        with reading(self._shown, self._place):
            return super().readall()
