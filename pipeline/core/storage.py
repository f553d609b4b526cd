"""Store: the few operations that Sightline asks of a local folder or an S3 prefix, and nothing else.

Names are relative to the store's root and use "/". Only allow-listed URL schemes are opened, chained URLs ("::")
never. A store pickles as its location: the filesystem and its credentials are made anew in each process, so no secret
travels. Digests are the business of artifacts.py, retries of retry.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.core.errors import UserError
from pipeline.core.local import LocalStore
from pipeline.core.memory import memory_store
from pipeline.core.names import escaped, parent_location, parse_location, public_url
from pipeline.core.retry import RetryingStore
from pipeline.core.s3 import S3Store
from pipeline.core.types import Entry
from pipeline.core.walk import Walk as Walk


class Store(Protocol):
    """A flat namespace of objects. Every method may raise NotFoundError, AccessError, StoreError or TransientError.

    What has been written is seen by every later read and listing, as local filesystems and S3 promise.
    """

    @property
    def url(self) -> str:
        """Where the store is, fit to be shown and published."""
        ...

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose name starts with the folder `prefix`, in byte order of their names."""
        ...

    def stat(self, name: str) -> Entry:
        """Return size, etag and time of one object."""
        ...

    def exists(self, name: str) -> bool:
        """Tell whether an object of that name exists."""
        ...

    def read(self, name: str) -> bytes:
        """Return the whole object."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open an object for seekable reading; it fails if the object changes meanwhile."""
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


def walk(store: Store, noted: Walk) -> Iterator[Entry]:
    """List a source: like `list`, but a folder that cannot be read is noted instead of ending the listing."""
    return store.walk(noted) if isinstance(store, LocalStore) else store.list()


def unfinished(store: Store) -> Iterator[Entry]:
    """Yield what writers began and did not finish: temporary files, multipart uploads. They may be still at it."""
    return store.unfinished() if isinstance(store, LocalStore | RetryingStore) else iter(())


def discard(store: Store, entry: Entry) -> None:
    """Remove what a writer did not finish; harmless when it is not there."""
    if isinstance(store, LocalStore | RetryingStore):
        store.discard(entry)


def is_distant(store: Store) -> bool:
    """Tell whether each request of a store waits for a server, which answers slowly and many at a time."""
    return isinstance(store, RetryingStore)


def file_name(store: Store, line: str) -> str:
    """Return the name in a store of a file that a list names; see `escaped` for names in local folders."""
    return escaped(line) if isinstance(store, LocalStore) else line


def open_store(location: str) -> Store:
    """Open a local folder or an s3:// prefix. Other schemes and chained URLs are a UserError."""
    parsed = parse_location(location)
    if parsed.scheme == "file":
        return LocalStore(parsed.path)
    if parsed.scheme == "memory":
        store: Store = memory_store(parsed.path)
        return store
    return RetryingStore(S3Store(parsed.path, parsed.options))


def split_location(location: str) -> tuple[Store, str]:
    """Return (store of the parent folder, name) for the location of a single object."""
    parsed = parse_location(location)
    if parsed.scheme == "file":
        full = Path(parsed.path).absolute()
        return LocalStore(str(full.parent)), full.name
    folder, name = parent_location(location)
    if not folder:
        raise UserError(public_url(location), "names a bucket, not an object", "write s3://bucket/name")
    return open_store(folder), name
