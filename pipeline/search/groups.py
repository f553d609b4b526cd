"""Small columns of row groups that were read lately: names are asked for again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import pyarrow as pa


class GroupCache:
    """Tables by name, within a number of bytes, the latest ones; used by one thread at a time."""

    def __init__(self, room: int) -> None:
        self._room, self._held = room, 0
        self._tables: OrderedDict[Hashable, pa.Table] = OrderedDict()

    def __call__(self, which: Hashable, read: Callable[[], pa.Table]) -> pa.Table:
        """Return a table that is kept, or read it."""
        if which not in self._tables:
            self._tables[which] = read()
            self._held += self._tables[which].nbytes
            while self._held > self._room and len(self._tables) > 1:
                self._held -= self._tables.popitem(last=False)[1].nbytes
        self._tables.move_to_end(which)
        return self._tables[which]
