"""Names of rows as keys: which names a file repeats, and what such rows are called instead. Reads no files.

A name that one row has is its key. Rows that share a name get their row number, "0000.jpg#4", so that no two rows of a
file have one key; images of a list are numbered within their row, "000000003#0".
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_PLACE = re.compile(r"#row=([0-9]+)(?:&item=([0-9]+))?\Z")
Hashes = npt.NDArray[np.uint64]


class RowNames:
    """Keys of the rows of one file. Holds 8 bytes per row where names repeat, and nothing where they do not."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """names: of all rows, those that are numbered included; in any order."""
        hashes = array("Q", map(_hash, names))
        known: Hashes = np.sort(np.frombuffer(hashes, np.uint64)) if hashes else np.zeros(0, np.uint64)
        self._repeated = np.unique(known[1:][known[1:] == known[:-1]])
        self._known = known if len(self._repeated) else self._repeated

    def unique(self, name: str, row: int) -> str:
        """Return the name where no other row has it, else the name and the row's number.

        Names are compared by 64 bits of BLAKE2: two names that differ and collide are numbered as well, nothing worse.
        """
        if not _among(self._repeated, name):
            return name
        numbered = f"{name}#{row}"
        while _among(self._known, numbered):
            # Another row's own name looks like this one; those of this row alone end so after any number of turns.
            numbered = f"{numbered}#{row}"
        return numbered


def uri_of(uri: str, row: int, item: int | None = None) -> str:
    """Return where a row lies, or one image of its list."""
    return f"{uri}#row={row}" if item is None else f"{uri}#row={row}&item={item}"


def place_of(uri: str) -> tuple[str, int, int | None] | None:
    """Return (file, row, number within the row's list or None) of a URI that `uri_of` made; None for another one."""
    match = _PLACE.search(uri)
    if match is None:
        return None
    return uri[: match.start()], int(match[1]), None if match[2] is None else int(match[2])


def is_key(key: str, stem: str, row: int, item: int | None) -> bool:
    """Tell whether a key can be that of a row whose name is the end of `stem`, numbered for being repeated or not."""
    rest = key.removeprefix(stem) if key.startswith(stem) else "?"
    return re.fullmatch(rf"(?:#{row})*" + ("" if item is None else f"#{item}"), rest) is not None


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _among(hashes: Hashes, name: str) -> bool:
    if not len(hashes):
        return False
    wanted = np.uint64(_hash(name))
    place = int(np.searchsorted(hashes, wanted))
    return place < len(hashes) and bool(hashes[place] == wanted)
