"""Stored descriptors of a snapshot, by (file, row): exact scores, and the names of images. Reads, never writes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core.metadata import Value
from pipeline.core.types import DescriptorBatch, Floats, Ints
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.search.groups import GroupCache
from pipeline.search.merge import Candidates, ranked
from pipeline.search.raw import RawVectors
from pipeline.table import DescriptorReader, ImageRow

_OPEN_FILES = 256
_GROUPS = 64 << 20
"""Bytes of names and the like that are kept, by the row group they were read with."""
NAMED = ("key", "uri", "width", "height")


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a result is called, the size of the original image in pixels, and its metadata where that is asked for."""

    key: str
    uri: str
    width: int
    height: int
    metadata: Mapping[str, Value] | None = None


class StoredDescriptors:
    """Random access to a table of descriptor files, each verified against its digest when it is first opened."""

    def __init__(self, catalog: Catalog, files: pa.Table, folder: Path) -> None:
        self._catalog, self._files, self._folder = catalog, files, folder
        self.dim = int(files["dim"][0].as_py()) if files.num_rows else 0
        self.counts: list[int] = files["indexed"].to_pylist()
        self._open: OrderedDict[int, DescriptorReader] = OrderedDict()
        self._raw, self._groups = RawVectors(folder), GroupCache(_GROUPS)
        self._lock = threading.Lock()

    def _reader(self, number: int) -> DescriptorReader:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        (file,) = manifests.descriptor_files(self._files.slice(number, 1))
        artifact = file.artifact
        reader = DescriptorReader(self._catalog.fetch(artifact, self._folder), artifact.uri, self._groups)
        self._open[number] = reader
        if len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)
        return reader

    def vectors(self, file: Ints, row: Ints) -> Floats:
        """Return the stored descriptors (m, d) of the given rows."""
        out = np.zeros((len(file), self.dim), np.float32)
        for number in np.unique(file).tolist():
            mine = np.flatnonzero(file == number)
            matrix = self._raw.matrix(number)
            out[mine] = self._read(number, row[mine]) if matrix is None else matrix[row[mine]]
        return out

    def _read(self, number: int, rows: Ints) -> Floats:
        with self._lock:
            reader = self._reader(number)
            found = reader.take_vectors(rows)
            self._raw.note(number, reader, rows)
        return found

    def image(self, file: int, row: int) -> ImageRow:
        """Return what is known of an image beside its descriptor."""
        with self._lock:
            (found,) = self._reader(file).take_images(np.array([row]))
        return found

    def columns(self, number: int, names: Sequence[str]) -> pa.Table:
        """Return some columns of the images of a descriptor file, in order."""
        with self._lock:
            return self._reader(number).columns(names)

    def keys(self, number: int) -> list[str]:
        """Return the keys of a descriptor file, in the order of its images."""
        with self._lock:
            return self._reader(number).keys()

    def local(self, file: int, row: int) -> tuple[DescriptorBatch, tuple[int, int]]:
        """Return the local descriptors of an image, and its width and height."""
        with self._lock:
            reader = self._reader(file)
            (size,) = reader.take(np.array([row]), ["width", "height"]).to_pylist()
            return reader.take_local(row), (size["width"], size["height"])

    @property
    def has_local(self) -> bool:
        """Whether local descriptors are stored."""
        with self._lock:
            return bool(self._files.num_rows) and (self._reader(0).is_local or self._reader(0).local_dim > 0)

    def names(self, file: Ints, row: Ints, *, metadata: bool = False) -> list[Named]:
        """Return what the images of the given rows are called; with metadata where the recipe carries any."""
        out: list[Named | None] = [None] * len(file)
        with self._lock:
            for number in np.unique(file):
                mine = np.flatnonzero(file == number)
                reader = self._reader(int(number))
                more = list(reader.metadata) if metadata else []
                for place, values in zip(mine, reader.take(row[mine], [*NAMED, *more]).to_pylist(), strict=True):
                    told = {name: values.pop(name) for name in more}
                    out[int(place)] = Named(**values, metadata=told or None)
        return [name for name in out if name is not None]

    def rerank(self, query: Floats, candidates: Candidates) -> Candidates:
        """Score candidates exactly: dot products of the query (d,) with stored descriptors, best first."""
        if not len(candidates):
            return candidates
        exact = self.vectors(candidates.file, candidates.row) @ query
        return ranked([Candidates(score=exact.astype(np.float32), file=candidates.file, row=candidates.row)])
