"""MemoryStore: a Store in this process, for tests; memory://NAME opens what has been registered under that name."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.core.errors import ExistsError, NotFoundError, UserError
from pipeline.core.names import checked_key, flat_name
from pipeline.core.types import Entry

_REGISTERED: dict[str, Any] = {}


def register(name: str, store: Any) -> None:
    """Let memory://name open this store in this process; None takes the name away."""
    if store is None:
        _REGISTERED.pop(name, None)
    else:
        _REGISTERED[name] = store


def memory_store(name: str) -> Any:
    """Return what is registered under a name, or a folder of it; a UserError when nothing is."""
    first, _, rest = name.partition("/")
    if first not in _REGISTERED:
        raise UserError(f"memory://{name}", "holds nothing in this process", "use a local path or s3://")
    store = _REGISTERED[first]
    return store.below(rest) if rest else store


class MemoryStore:
    """A dict behind a lock. `clock` gives the time of writing; views made by `below` share the objects."""

    def __init__(self, name: str, clock: Callable[[], float] = time.time) -> None:
        self.url = f"memory://{name}"
        self.clock = clock
        self.objects: dict[str, tuple[bytes, float]] = {}
        self._prefix = ""
        self._lock = threading.Lock()

    def below(self, folder: str) -> MemoryStore:
        """Return a view of a folder."""
        view = MemoryStore.__new__(MemoryStore)
        view.__dict__.update(self.__dict__)
        view.url, view._prefix = f"{self.url}/{folder}", f"{self._prefix}{folder}/"
        return view

    def _name(self, name: str) -> str:
        return self._prefix + checked_key(name)

    def _get(self, name: str) -> tuple[bytes, float]:
        try:
            return self.objects[self._name(name)]
        except KeyError:
            raise NotFoundError(f"{name}: no such object") from None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield a consistent listing."""
        start = self._prefix + (f"{prefix.rstrip('/')}/" if prefix else "")
        with self._lock:
            found = sorted((n for n in self.objects if n.startswith(start)), key=str.encode)
        for name in found:
            if name in self.objects:
                yield self.stat(name[len(self._prefix) :])

    def stat(self, name: str) -> Entry:
        """Return size, digest (as etag) and time of writing."""
        data, modified = self._get(name)
        return Entry(path=name, size=len(data), etag=hashlib.md5(data).hexdigest(), modified=modified)  # noqa: S324

    def exists(self, name: str) -> bool:
        """Tell whether the object exists."""
        return self._name(name) in self.objects

    def read(self, name: str) -> bytes:
        """Return the object's bytes."""
        return self._get(name)[0]

    def open(self, name: str) -> BinaryIO:
        """Open the bytes."""
        return io.BytesIO(self.read(name))

    def write(self, name: str, data: bytes) -> None:
        """Keep the bytes."""
        with self._lock:
            self.objects[self._name(name)] = (bytes(data), self.clock())

    def put_if_absent(self, name: str, data: bytes) -> None:
        """Keep the bytes unless the name is taken."""
        with self._lock:
            if self._name(name) in self.objects:
                raise ExistsError(f"{name}: exists already")
            self.objects[self._name(name)] = (bytes(data), self.clock())

    def upload(self, path: Path, name: str) -> None:
        """Keep a file's bytes."""
        self.write(name, path.read_bytes())

    def local(self, name: str, folder: Path) -> Path:
        """Write the bytes to a file in `folder`."""
        path = folder / flat_name(name)
        path.write_bytes(self.read(name))
        return path

    def delete(self, name: str) -> None:
        """Forget the object."""
        with self._lock:
            self.objects.pop(self._name(name), None)
