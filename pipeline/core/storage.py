"""Store: the few operations that Sightline asks of a local folder or an S3 prefix, and nothing else.

Names are relative to the store's root and use "/". Only allow-listed URL schemes are opened, chained URLs ("::")
never. A store pickles as its URL: the filesystem and its credentials are made anew in each process, so no secret
travels. Digests are the business of pipeline/publish/catalog.py.
"""

from __future__ import annotations

import io
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pipeline.core.errors import ExistsError, NotFoundError, StoreError, UserError
from pipeline.core.names import checked_name, public_url, split_scheme
from pipeline.core.s3 import S3Store
from pipeline.core.types import Entry

_TEMPORARY = ".sightline-tmp-"


class Store(Protocol):
    """A flat namespace of objects. Every method may raise NotFoundError, StoreError or TransientError."""

    url: str

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose name starts with the folder `prefix`, in byte order of their names."""
        ...

    def stat(self, name: str) -> Entry:
        """Return size and etag of one object."""
        ...

    def exists(self, name: str) -> bool:
        """Tell whether an object of that name exists."""
        ...

    def read(self, name: str) -> bytes:
        """Return the whole object."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open an object for seekable reading."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Create or replace an object at once; for names that nobody else writes."""
        ...

    def put_if_absent(self, name: str, data: bytes) -> None:
        """Create an object; ExistsError when the name is taken. Exactly one of several racers succeeds."""
        ...

    def upload(self, path: Path, name: str) -> None:
        """Create or replace an object from a local file."""
        ...

    def local(self, name: str, folder: Path) -> Path:
        """Return a local path holding the object: its own when it is local, else a copy in `folder`."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; harmless when it is gone."""
        ...


def open_store(location: str) -> Store:
    """Open a local folder or an s3:// prefix. Other schemes and chained URLs are a UserError."""
    scheme, path = split_scheme(location)
    if scheme == "file":
        return LocalStore(path)
    return S3Store(path)


def split_location(location: str) -> tuple[Store, str]:
    """Return (store of the parent folder, name) for the location of a single object."""
    scheme, path = split_scheme(location)
    if scheme == "file":
        full = Path(path).absolute()
        return LocalStore(str(full.parent)), full.name
    parent, _, name = path.rpartition("/")
    if not parent:
        raise UserError(public_url(location), "names a bucket, not an object", "write s3://bucket/name")
    return S3Store(parent), name


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
        """Return size and modification time (as etag)."""
        with _local_errors(name):
            return _local_entry(name, self._path(name).stat())

    def exists(self, name: str) -> bool:
        """Tell whether the file exists."""
        return self._path(name).is_file()

    def read(self, name: str) -> bytes:
        """Return the file's bytes."""
        with _local_errors(name):
            return self._path(name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        """Open the file for reading."""
        with _local_errors(name):
            return self._path(name).open("rb")

    def write(self, name: str, data: bytes) -> None:
        """Write a temporary file and rename it."""
        with _local_errors(name), self._temporary(name) as temporary:
            _write_durably(temporary, io.BytesIO(data))
            temporary.rename(self._path(name))

    def put_if_absent(self, name: str, data: bytes) -> None:
        """Write a temporary file and link it: the link fails when the name is taken."""
        with _local_errors(name), self._temporary(name) as temporary:
            _write_durably(temporary, io.BytesIO(data))
            self._path(name).hardlink_to(temporary)

    def upload(self, path: Path, name: str) -> None:
        """Copy a file in beside its place, then rename it."""
        with _local_errors(name), self._temporary(name) as temporary:
            with path.open("rb") as source:
                _write_durably(temporary, source)
            temporary.rename(self._path(name))

    def local(self, name: str, folder: Path) -> Path:  # noqa: ARG002 - remote stores need it
        """Return the file's own path."""
        path = self._path(name)
        if not path.is_file():
            raise NotFoundError(f"{name}: no such object")
        return path

    def delete(self, name: str) -> None:
        """Remove the file."""
        with _local_errors(name):
            self._path(name).unlink(missing_ok=True)

    @contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        folder = self._path(name).parent
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _local_entry(name: str, stat: os.stat_result) -> Entry:
    return Entry(path=name, size=stat.st_size, etag=f"{stat.st_mtime_ns:x}-{stat.st_size:x}")


def _write_durably(path: Path, source: BinaryIO) -> None:
    with path.open("xb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def _local_errors(name: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise ExistsError(f"{name}: exists already") from None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise NotFoundError(f"{name}: no such object") from None
    except OSError as error:
        raise StoreError(f"{name}: {error.strerror or error}") from error
