"""LocalStore: a folder as a Store. The protocol is in storage.py."""

from __future__ import annotations

import io
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.core.durable import create, make_folder, replace, write_durably
from pipeline.core.errors import NotFoundError, PlaceError, UserError
from pipeline.core.names import checked_name, local_path, shown_path, unescaped
from pipeline.core.os_errors import open_file, reading, regular, writing
from pipeline.core.types import Entry
from pipeline.core.walk import TEMPORARY, Walk, local_entry, unfinished_files, walk_folder


class LocalStore:
    """A folder. Creation is a temporary file, fsync, then a link or a rename: never partial, one winner."""

    def __init__(self, path: str) -> None:
        self.root = Path(local_path(path)).absolute()
        self.url = shown_path(str(self.root))

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStore, (str(self.root),)

    def _path(self, name: str) -> Path:
        return self.root / unescaped(checked_name(name))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Walk folders in byte order of the resulting names; ReadError when one of them cannot be read."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        yield from walk_folder(str(self._path(prefix) if prefix else self.root), folder, None, self.url)

    def walk(self, noted: Walk) -> Iterator[Entry]:
        """The same of all that can be read; the rest is noted. UserError when the folder itself cannot be."""
        try:
            os.scandir(self.root).close()
        except OSError as error:
            reason = f"cannot be listed ({error.strerror or error})"
            raise UserError(self.url, reason, "check the folder and its mount") from None
        yield from walk_folder(str(self.root), "", noted)

    def is_folder(self) -> bool:
        """Tell whether the folder is there."""
        try:
            return stat.S_ISDIR(self.root.stat().st_mode)
        except OSError:
            return False

    def stat(self, name: str) -> Entry:
        """Return size and modification time (as etag); NotFoundError for what is no regular file."""
        path = self._path(name)
        with reading(name, self.url):
            return local_entry(name, regular(path.stat(), path, name))

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
        return open_file(self._path(name), name, self.url)

    def write(self, name: str, data: bytes) -> None:
        """Write a temporary file and rename it."""
        with writing(name, self.url), self._temporary(name) as temporary:
            write_durably(temporary, io.BytesIO(data))
            replace(temporary, self._path(name))

    def put_if_absent(self, name: str, data: bytes) -> None:
        """Write a temporary file, then take the name for it; see durable.py."""
        with writing(name, self.url), self._temporary(name) as temporary:
            write_durably(temporary, io.BytesIO(data))
            create(temporary, self._path(name))

    def upload(self, path: Path, name: str) -> None:
        """Copy a file in beside its place, then rename it; ReadError when it is the file that cannot be read."""
        with (
            open_file(path, path.name, shown_path(str(path.parent))) as source,
            writing(name, self.url),
            self._temporary(name) as temporary,
        ):
            write_durably(temporary, source)
            replace(temporary, self._path(name))

    def local(self, name: str, folder: Path) -> Path:  # noqa: ARG002 - remote stores need it
        """Return the file's own path."""
        self.stat(name)
        return self._path(name)

    def delete(self, name: str) -> None:
        """Remove the file."""
        with writing(name, self.url):
            self._path(name).unlink(missing_ok=True)

    def unfinished(self) -> Iterator[Entry]:
        """Yield the temporary files beneath the folder; ReadError when one of the folders cannot be read."""
        for found in unfinished_files(str(self.root), self.url):
            path = Path(found)
            with suppress(OSError):
                yield local_entry(shown_path(path.relative_to(self.root).as_posix()), path.stat())

    def discard(self, entry: Entry) -> None:
        """Remove a temporary file."""
        self.delete(entry.path)

    @contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        folder = self._path(name).parent
        try:
            make_folder(folder)
        except (FileExistsError, NotADirectoryError):
            raise PlaceError(f"{self.url}: a file is where the folder of {name} would be; move it away") from None
        temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
