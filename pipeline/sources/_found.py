"""Finding files beneath a folder or a prefix: which are wanted, which are passed over, which folders cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pipeline.core.storage import Store, Walk, walk
from pipeline.core.types import Entry
from pipeline.sources import SourceSpec
from pipeline.sources._skipped import Skipped


class Found:
    """What listings of a store came upon; the latest one counts."""

    def __init__(self, store: Store, spec: SourceSpec) -> None:
        self._store, self._spec = store, spec
        self._walk = Walk()
        self._passed = Skipped()

    @property
    def skipped(self) -> int:
        """Files that were passed over, pipes, sockets and devices, and links that lead nowhere."""
        return self._passed.counts.total() + self._walk.special

    @property
    def skipped_by(self) -> Mapping[str, int]:
        """The same by suffix; what is no file has none."""
        return self._passed.counts

    @property
    def unreadable(self) -> list[str]:
        """Folders ("path/") that could not be read and are wanted; "" where a file of the top folder could not be."""
        return [folder for folder in self._walk.unreadable if self._spec.enters(folder)]

    def files(self, wants: Callable[[str], bool]) -> Iterator[Entry]:
        """Yield the wanted files in byte order."""
        self._walk, self._passed = Walk(), Skipped()
        for entry in walk(self._store, self._walk):
            if self._spec.enters(entry.path) and wants(entry.path):
                yield entry
            else:
                self._passed.add(entry.path)
