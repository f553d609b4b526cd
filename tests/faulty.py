"""Stores that fail on purpose at the n-th operation: before, after, half way, or with an error though it was done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pipeline.core.errors import TransientError
from pipeline.core.storage import Store
from pipeline.core.types import Entry

Mode = Literal["before", "after", "torn", "error"]
WRITES = ("write", "put_if_absent", "upload", "delete")


def modes(operation: str) -> tuple[Mode, ...]:
    """The ways in which an operation can fail; to stop after a read is to stop before what follows it."""
    return ("before", "after", "torn", "error") if operation.split()[0] in WRITES else ("before", "error")


class Stopped(BaseException):
    """What a process sees of its own kill: nothing. No handler of Exceptions may catch it."""


class Watched:
    """A Store that tells `hook` of every operation and lets it carry the operation out."""

    def __init__(self, inner: Store, hook: Callable[[str, str, Callable[[], Any]], Any]) -> None:
        self.inner, self.hook = inner, hook
        self.url = inner.url

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def below(self, folder: str) -> Any:
        return Watched(self.inner.below(folder), self.hook)  # type: ignore[attr-defined]

    def list(self, prefix: str = "") -> Iterator[Entry]:
        yield from self.hook("list", prefix, lambda: list(self.inner.list(prefix)))

    def stat(self, name: str) -> Entry:
        return self.hook("stat", name, lambda: self.inner.stat(name))  # type: ignore[no-any-return]

    def exists(self, name: str) -> bool:
        return self.hook("exists", name, lambda: self.inner.exists(name))  # type: ignore[no-any-return]

    def read(self, name: str) -> bytes:
        return self.hook("read", name, lambda: self.inner.read(name))  # type: ignore[no-any-return]

    def open(self, name: str) -> BinaryIO:
        return self.hook("open", name, lambda: self.inner.open(name))  # type: ignore[no-any-return]

    def local(self, name: str, folder: Path) -> Path:
        return self.hook("local", name, lambda: self.inner.local(name, folder))  # type: ignore[no-any-return]

    def write(self, name: str, data: bytes) -> None:
        def carry_out(cut: int | None = None) -> None:
            self.inner.write(name, data[:cut])

        self.hook("write", name, carry_out)

    def put_if_absent(self, name: str, data: bytes) -> None:
        self.hook("put_if_absent", name, lambda: self.inner.put_if_absent(name, data))

    def upload(self, path: Path, name: str) -> None:
        data = path.read_bytes()

        def carry_out(cut: int | None = None) -> None:
            self.inner.write(name, data[:cut])

        self.hook("upload", name, carry_out)

    def delete(self, name: str) -> None:
        self.hook("delete", name, lambda: self.inner.delete(name))


class StopAt:
    """A hook that stops everything at operation number `at` (from 0) in one of the modes; -1 only counts."""

    def __init__(self, at: int = -1, mode: Mode = "before") -> None:
        self.at, self.mode = at, mode
        self.operations: list[str] = []
        self._lock = threading.Lock()
        self._stopped = False

    def __call__(self, kind: str, name: str, carry_out: Callable[..., Any]) -> Any:
        with self._lock:
            if self._stopped and self.mode != "error":
                raise Stopped
            self.operations.append(f"{kind} {name}")
            if len(self.operations) - 1 != self.at:
                return carry_out()
            self._stopped = True
        if self.mode == "before":
            raise Stopped
        if self.mode == "torn" and kind in ("write", "upload"):
            # A store without atomic writes: half of the object lies under its final name.
            carry_out(8)
            raise Stopped
        result = carry_out()
        if self.mode == "error":
            raise TransientError(f"{name}: timed out")
        del result
        raise Stopped
