"""LocalStore: a folder as a Store. The protocol is in storage.py."""

from __future__ import annotations

import io
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.core.errors import NotFoundError, PlaceError
from pipeline.core.names import checked_name
from pipeline.core.os_errors import open_file, reading, regular, writing
from pipeline.core.types import Entry

_TEMPORARY = ".sightline-tmp-"


class LocalStore:
    """A folder. Creation is a temporary file, fsync, then link or rename: never partial, one winner."""

    def __init__(self, path: str) -> None:
        self.root = Path(path).absolute()
        self.url = str(self.root)

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStore, (self.url,)

    def _path(self, name: str) -> Path:
        return self.root / checked_name(name)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Walk folders in byte order of the resulting names; links are followed, link cycles are not."""
        start = self.root / prefix if prefix else self.root
        if start.is_dir():
            yield from self._walk(start, f"{prefix.rstrip('/')}/" if prefix else "", frozenset())

    def _walk(self, folder: Path, prefix: str, above: frozenset[str]) -> Iterator[Entry]:
        real = os.path.realpath(folder)
        if real in above:
            return
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(_TEMPORARY):
                    name = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
                    found.append((name + "/" if entry.is_dir() else name, entry))
        for name, entry in sorted(found, key=lambda pair: pair[0].encode()):
            if name.endswith("/"):
                yield from self._walk(Path(entry.path), prefix + name, above | {real})
            elif entry.is_file():
                yield _local_entry(prefix + name, entry.stat())

    def stat(self, name: str) -> Entry:
        """Return size and modification time (as etag); NotFoundError for what is no regular file."""
        path = self._path(name)
        with reading(name):
            return _local_entry(name, regular(path.stat(), path, name))

    def exists(self, name: str) -> bool:
        """Tell whether the file exists."""
        try:
            self.stat(name)
        except NotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes:
        """Return the file's bytes."""
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        """Open the file for reading."""
        return open_file(self._path(name), name)

    def write(self, name: str, data: bytes) -> None:
        """Write a temporary file and rename it."""
        with writing(name, self.url), self._temporary(name) as temporary:
            _write_durably(temporary, io.BytesIO(data))
            temporary.rename(self._path(name))

    def put_if_absent(self, name: str, data: bytes) -> None:
        """Write a temporary file and link it: the link fails when the name is taken."""
        with writing(name, self.url), self._temporary(name) as temporary:
            _write_durably(temporary, io.BytesIO(data))
            self._path(name).hardlink_to(temporary)

    def upload(self, path: Path, name: str) -> None:
        """Copy a file in beside its place, then rename it."""
        with writing(name, self.url), self._temporary(name) as temporary:
            with path.open("rb") as source:
                _write_durably(temporary, source)
            temporary.rename(self._path(name))

    def local(self, name: str, folder: Path) -> Path:  # noqa: ARG002 - remote stores need it
        """Return the file's own path."""
        self.stat(name)
        return self._path(name)

    def delete(self, name: str) -> None:
        """Remove the file."""
        with writing(name, self.url):
            self._path(name).unlink(missing_ok=True)

    @contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        folder = self._path(name).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise PlaceError(f"{self.url}: a file is where the folder of {name} would be; move it away") from None
        temporary = folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _local_entry(name: str, stat: os.stat_result) -> Entry:
    etag = f"{stat.st_mtime_ns:x}-{stat.st_size:x}"
    return Entry(path=name, size=stat.st_size, etag=etag, modified=stat.st_mtime_ns / 1e9)


def _write_durably(path: Path, source: BinaryIO) -> None:
    with path.open("xb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())
