"""Find the rows of named images, and of images of given content, in descriptor files: what becomes a tombstone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import staging
from pipeline.core.resources import PROCESS_BYTES, Resources
from pipeline.core.storage import open_store
from pipeline.core.types import DescriptorFile, Ints
from pipeline.publish.catalog import Catalog
from pipeline.table import DescriptorReader

FOUND = pa.schema([("row", pa.int64()), *((name, pa.string()) for name in ("key", "uri", "sha256"))])


@dataclass(frozen=True, kw_only=True)
class FindItem:
    """Keys to look for in one descriptor file."""

    file: DescriptorFile
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FoundRows:
    """The images (n rows of FOUND, in order) that have one of the keys or one of the digests; row is their number."""

    table: pa.Table

    @property
    def rows(self) -> Ints:
        """Their sorted numbers (n,)."""
        rows: Ints = self.table["row"].to_numpy()
        return rows

    def named(self, keys: Iterable[str]) -> FoundRows:
        """Return the images that have one of some keys."""
        return FoundRows(table=self.table.filter(self._have(keys)))

    def but(self, keys: Iterable[str]) -> FoundRows:
        """Return the images that have none of some keys."""
        return FoundRows(table=self.table.filter(pc.invert(self._have(keys))))

    def without(self, rows: Ints) -> FoundRows:
        """Return the images without those of some numbers."""
        return FoundRows(table=self.table.filter(pa.array(np.isin(self.rows, rows, invert=True))))

    def _have(self, keys: Iterable[str]) -> pa.ChunkedArray:
        return pc.is_in(self.table["key"], pa.array(list(keys), pa.string()))


FindKeys = Callable[[Iterable[FindItem], Sequence[str]], Iterator[tuple[FindItem, FoundRows]]]
"""Finds keys, and digests (sha256, hex) of images whatever their keys, by whatever runner there is."""


@dataclass(frozen=True, kw_only=True)
class FindRowsTask:
    """Work for a runner: from a FindItem to FoundRows. digests: of images that are wanted in every file."""

    root: str
    digests: tuple[str, ...] = ()

    resources = Resources(memory=PROCESS_BYTES)

    def open(self, threads: int) -> FindRowsTask:  # noqa: ARG002 - part of the protocol
        """Nothing to load."""
        return self

    def __call__(self, item: FindItem) -> FoundRows:
        """Read the keys and digests of the file and compare."""
        catalog = Catalog(open_store(self.root))
        with staging.folder() as folder:
            reader = DescriptorReader(catalog.fetch(item.file.artifact, Path(folder)), item.file.artifact.uri)
            images = reader.columns(["key", "uri", "sha256"])
        wanted = pc.is_in(images["key"], pa.array(item.keys, pa.string()))
        if self.digests:
            wanted = pc.or_(wanted, pc.is_in(images["sha256"], pa.array(self.digests, pa.string())))
        numbered = images.add_column(0, "row", pa.array(np.arange(images.num_rows), pa.int64()))
        return FoundRows(table=numbered.filter(wanted).cast(FOUND).combine_chunks())
