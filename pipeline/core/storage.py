"""Store: the few operations that Sightline asks of a local folder or an S3 prefix, and nothing else.

Names are relative to the store's root and use "/". Only allow-listed URL schemes are opened, chained URLs ("::")
never. A store pickles as its URL: the filesystem and its credentials are made anew in each process, so no secret
travels. Digests are the business of pipeline/publish/catalog.py.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import unquote, urlsplit

import fsspec

from pipeline.core.errors import ExistsError, NotFoundError, StoreError, TransientError, UserError
from pipeline.core.types import Entry

SCHEMES = ("file", "s3")
_TEMPORARY = ".sightline-tmp-"
_WINDOWS_DRIVE = re.compile(r"^[A-Za-z]:[\\/]")


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


def split_scheme(location: str) -> tuple[str, str]:
    """Return (scheme, path) of an allowed location, without query or user information."""
    shown = public_url(location)
    if "::" in location:
        raise UserError(shown, "chained URLs are not opened", "name the object itself")
    if "://" not in location or _WINDOWS_DRIVE.match(location):
        return "file", location
    parts = urlsplit(location)
    if parts.scheme not in SCHEMES:
        raise UserError(shown, f"scheme {parts.scheme!r} is not allowed", f"use a local path or {SCHEMES[1]}://")
    if parts.scheme == "file":
        return "file", unquote(parts.path)
    bucket = parts.netloc.rpartition("@")[2]
    if not bucket:
        raise UserError(shown, "names no bucket", "write s3://bucket/prefix")
    return "s3", f"{bucket}{location.partition(parts.netloc)[2].partition('?')[0]}".rstrip("/")


def public_url(location: str) -> str:
    """Return a location fit for messages: no user information, no query (presigned URLs carry secrets there)."""
    if "://" not in location:
        return location
    scheme, _, rest = location.partition("://")
    netloc, slash, path = rest.partition("/")
    return f"{scheme}://{netloc.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


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


def _checked(name: str) -> str:
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\0" in name:
        raise StoreError(f"{name!r}: not a name inside the store")
    return name


class LocalStore:
    """A folder. Creation is a temporary file, fsync, then link or rename: never partial, one winner."""

    def __init__(self, path: str) -> None:
        self.root = Path(path).absolute()
        self.url = str(self.root)

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStore, (self.url,)

    def _path(self, name: str) -> Path:
        return self.root / _checked(name)

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


_TRANSIENT_CODES = {
    "SlowDown",
    "InternalError",
    "ServiceUnavailable",
    "RequestTimeout",
    "Throttling",
    "429",
    "500",
    "503",
}
_TAKEN_CODES = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


class S3Store:
    """An S3 prefix through s3fs. Endpoint, region and credentials come from the usual AWS variables and profiles."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.url = f"s3://{path}"

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Store, (self.path,)

    @property
    def _fs(self) -> Any:
        # fsspec keeps one instance per process and thread-safe event loop; nothing is held here, nothing is pickled.
        return fsspec.filesystem("s3", use_listings_cache=False)

    def _path(self, name: str) -> str:
        return f"{self.path}/{_checked(name)}"

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """List recursively; S3 answers in byte order of the keys."""
        start = f"{self.path}/{prefix}".rstrip("/")
        try:
            with _s3_errors(start):
                found = self._fs.find(start, detail=True)
        except NotFoundError:
            return
        for path in sorted(found, key=str.encode):
            info = found[path]
            if info["type"] == "file" and not path.endswith("/"):
                yield _s3_entry(path[len(self.path) + 1 :], info)

    def stat(self, name: str) -> Entry:
        """Return size and ETag."""
        with _s3_errors(name):
            return _s3_entry(name, self._fs.info(self._path(name)))

    def exists(self, name: str) -> bool:
        """Tell whether the object exists."""
        try:
            self.stat(name)
        except NotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes:
        """Return the object's bytes."""
        with _s3_errors(name):
            return cast("bytes", self._fs.cat_file(self._path(name)))

    def open(self, name: str) -> BinaryIO:
        """Open the object for seekable reading, with read-ahead."""
        with _s3_errors(name):
            return cast("BinaryIO", self._fs.open(self._path(name), "rb", block_size=8 << 20))

    def write(self, name: str, data: bytes) -> None:
        """Put the object."""
        with _s3_errors(name):
            self._fs.pipe_file(self._path(name), data)

    def put_if_absent(self, name: str, data: bytes) -> None:
        """Put with If-None-Match: *."""
        with _s3_errors(name):
            self._fs.pipe_file(self._path(name), data, mode="create")

    def upload(self, path: Path, name: str) -> None:
        """Put the object from a file, in parts when it is large."""
        with _s3_errors(name):
            self._fs.put_file(str(path), self._path(name))

    def local(self, name: str, folder: Path) -> Path:
        """Download the object into `folder`."""
        target = folder / name.replace("/", "_")
        with _s3_errors(name):
            self._fs.get_file(self._path(name), str(target))
        return target

    def delete(self, name: str) -> None:
        """Delete the object."""
        try:
            with _s3_errors(name):
                self._fs.rm_file(self._path(name))
        except NotFoundError:
            return


def _s3_entry(name: str, info: dict[str, Any]) -> Entry:
    return Entry(path=name, size=int(info["size"]), etag=str(info.get("ETag", "")).strip('"'))


@contextmanager
def _s3_errors(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"{name}: no such object") from None
    except FileExistsError:
        raise ExistsError(f"{name}: exists already") from None
    except PermissionError:
        raise StoreError(f"{name}: access denied; check the AWS credentials, profile and endpoint") from None
    except OSError as error:
        response = getattr(error.__cause__, "response", None) or {}
        code = str(response.get("Error", {}).get("Code", ""))
        if code in _TAKEN_CODES:
            raise ExistsError(f"{name}: exists already") from None
        if code in _TRANSIENT_CODES or isinstance(error, TimeoutError | ConnectionError):
            raise TransientError(f"{name}: {code or type(error).__name__}") from error
        raise StoreError(f"{name}: {code or type(error).__name__}") from error
