"""Vectors of much asked descriptor files as plain matrices on local disk, mapped into memory.

Parquet reads row groups, a thousand vectors for one. A file that has been read as often as it has row groups is written
out whole: from then on a vector costs what its bytes cost, at the price of reading the file once more.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.types import Ints
from pipeline.table import ROW_GROUP, DescriptorReader

ROOM = 16 << 30
"""Bytes on disk, of all matrices together; never more than half of what is free."""
_ROWS = 1 << 14
log = logging.getLogger(__name__)
Matrix = npt.NDArray[np.float16] | npt.NDArray[np.float32]


class RawVectors:
    """Matrices by the number of their file. `matrix` may be called by any thread, `note` by one at a time."""

    def __init__(self, folder: Path, room: int = ROOM) -> None:
        self._folder, self._room, self._held = folder, room, 0
        self._groups: Counter[int] = Counter()
        self._made: OrderedDict[int, Matrix] = OrderedDict()

    def matrix(self, number: int) -> Matrix | None:
        """Return the vectors (n, d) of a file, if it has been written out."""
        return self._made.get(number)

    def note(self, number: int, reader: DescriptorReader, rows: Ints) -> None:
        """Hear that rows were read from a file; write it out when that has happened often enough."""
        if reader.is_local or reader.dtype == "binary" or not reader.rows or number in self._made:
            # Written out meanwhile, for another thread: what is mapped must never be written again.
            return
        self._groups[number] += len(np.unique(rows // ROW_GROUP))
        if self._groups[number] * ROW_GROUP >= reader.rows:
            self._write(number, reader)

    def _write(self, number: int, reader: DescriptorReader) -> None:
        dtype = np.dtype(reader.dtype)
        size = reader.rows * reader.dim * dtype.itemsize
        free = shutil.disk_usage(self._folder).free
        while self._made and self._held + size > self._room:
            oldest, matrix = self._made.popitem(last=False)
            self._held -= matrix.nbytes
            self._groups[oldest] = 0
            # Who still reads it holds the mapping; the name can go.
            (self._folder / f"vectors-{oldest}").unlink(missing_ok=True)
        if self._held + size > self._room or 2 * size > free:
            self._groups[number] = 0
            return
        path = self._folder / f"vectors-{number}"
        try:
            with path.open("xb") as file:
                for part in reader.batches(_ROWS):
                    part.astype(dtype).tofile(file)
        except OSError as error:
            # Others fill the disk, too: row groups go on answering, only slower.
            path.unlink(missing_ok=True)
            self._groups[number] = 0
            log.warning("vectors of %s cannot be written out: %s", reader.name, error)
            return
        self._made[number] = np.memmap(path, dtype, "r", shape=(reader.rows, reader.dim))
        self._held += size
