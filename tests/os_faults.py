"""Errors of the operating system at the n-th operation on real folders, beneath everything that translates them.

Python tells audit hooks of opening, renaming, linking, removing, creating folders and listing them before it asks the
system; what such a hook raises is what the caller gets. Reading from an open file is not among them: see unwell.py.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READS = ("open to read", "os.scandir", "os.listdir")
_WATCHED = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.scandir", "os.listdir", "os.rmdir")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NAMES = re.compile(r"[0-9a-f]{12,64}")


@dataclass
class Faults:
    """What fails: operation number `at` (from 0; -1 for none), or each from there on that reads, or writes, as it does
    and in the same folder.

    folders: only what lies in them counts. operations: those that were met, with the names that differ from run to run
    left out. failed: how many of them failed.
    """

    folders: tuple[Path, ...]
    number: int = 0
    at: int = -1
    lasting: bool = False
    operations: list[str] = field(default_factory=list)
    failed: int = 0
    _fails: tuple[str, bool] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, event: str, args: tuple[Any, ...]) -> None:
        path = args[1] if event == "os.link" else args[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.fsdecode(path)
        folder = next((str(folder) for folder in self.folders if name.startswith(str(folder))), None)
        if folder is None:
            return
        if event == "open":
            event = "open to write" if args[2] & _WRITING else "open to read"
        sort = (folder, event in READS)
        with self._lock:
            self.operations.append(f"{event} {_NAMES.sub('*', name.removeprefix(str(Path(folder).parent)))}")
            if len(self.operations) - 1 == self.at:
                self._fails = sort
            elif not self.lasting or sort != self._fails:
                return
            self.failed += 1
        raise OSError(self.number, os.strerror(self.number), name)


_active: list[Faults] = []
_hooked: list[bool] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _active and event in _WATCHED:
        _active[-1].meet(event, args)


@contextmanager
def os_faults(faults: Faults) -> Iterator[Faults]:
    """Let operations on folders fail while the block runs."""
    if not _hooked:
        # A hook stays as long as the process lives.
        sys.addaudithook(_hook)
        _hooked.append(True)
    _active.append(faults)
    try:
        yield faults
    finally:
        _active.remove(faults)
