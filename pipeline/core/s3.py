"""S3Store: an S3 prefix as a Store, through s3fs. Names, URLs and the protocol are in names.py and storage.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from pipeline.core.errors import ExistsError, NotFoundError, StoreError, TransientError
from pipeline.core.names import checked_name
from pipeline.core.types import Entry

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
        return f"{self.path}/{checked_name(name)}"

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
