"""VectorBlock: rows of a file of vectors as columns, some thousand at a time. Nothing is read or checked here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.metadata import Value
from pipeline.core.types import Floats, Ints

VALUE = np.dtype("<f4")
"""Vectors come as little-endian float32, whatever the file holds; digests are of these bytes."""
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class VectorBlock:
    """n rows with their names, in the order of the file.

    values: one vector after the other, float32. offsets (n + 1,): where each begins. there (n,): False where the row is
    null. metadata: of each row, or () where none is declared.
    """

    keys: Sequence[str]
    uris: Sequence[str]
    values: Floats
    offsets: Ints
    there: Mask
    metadata: Sequence[Mapping[str, Value]] = ()

    @classmethod
    def of_matrix(cls, keys: Sequence[str], uris: Sequence[str], matrix: Floats) -> VectorBlock:
        """Return the block of a matrix (n, d)."""
        rows, dim = matrix.shape
        offsets = np.arange(rows + 1, dtype=np.int64) * dim
        return cls(keys=keys, uris=uris, values=matrix.reshape(-1), offsets=offsets, there=np.ones(rows, np.bool_))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def lengths(self) -> Ints:
        """Values of each row (n,)."""
        return np.diff(self.offsets)

    def matrix(self, rows: Mask, dim: int) -> Floats:
        """Return the marked rows, each of length `dim`, as a matrix."""
        if rows.all():
            return self.values[self.offsets[0] : self.offsets[-1]].reshape(-1, dim)
        if not rows.any():
            return np.zeros((0, dim), VALUE)
        starts = self.offsets[:-1][rows]
        matrix: Floats = self.values[starts[:, None] + np.arange(dim)]
        return matrix

    def digests(self) -> list[str]:
        """Return the sha256 (hex) of each vector's bytes, "" for what is null."""
        data = np.ascontiguousarray(self.values, VALUE).view(np.uint8).data
        places = (self.offsets * VALUE.itemsize).tolist()
        spans = zip(places[:-1], places[1:], self.there.tolist(), strict=True)
        return [hashlib.sha256(data[start:end]).hexdigest() if there else "" for start, end, there in spans]

    def selected(self, rows: Mask) -> VectorBlock:
        """Return the block of the marked rows."""
        if rows.all():
            return self
        places = np.flatnonzero(rows).tolist()
        lengths = self.lengths[rows]
        return VectorBlock(
            keys=[self.keys[place] for place in places],
            uris=[self.uris[place] for place in places],
            values=self.values[np.repeat(rows, self.lengths)],
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            there=self.there[rows],
            metadata=[self.metadata[place] for place in places] if self.metadata else (),
        )
