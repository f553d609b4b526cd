"""Find the rows of named images in descriptor files: what turns a key into a tombstone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import staging
from pipeline.core.storage import open_store
from pipeline.core.types import DescriptorFile, Ints
from pipeline.publish.catalog import Catalog
from pipeline.table import DescriptorReader


@dataclass(frozen=True, kw_only=True)
class FindItem:
    """Keys to look for in one descriptor file."""

    file: DescriptorFile
    keys: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FoundRows:
    """Sorted numbers (n,) of the images that have one of the keys, and the keys that were there."""

    rows: Ints
    keys: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class FindRowsTask:
    """Work for a runner: from a FindItem to FoundRows."""

    root: str

    uses_gpu = False

    def open(self, threads: int) -> FindRowsTask:  # noqa: ARG002 - part of the protocol
        """Nothing to load."""
        return self

    def __call__(self, item: FindItem) -> FoundRows:
        """Read the keys of the file and compare."""
        catalog = Catalog(open_store(self.root))
        with staging.folder() as folder:
            reader = DescriptorReader(catalog.fetch(item.file.artifact, Path(folder)), item.file.artifact.uri)
            keys = pa.array(reader.keys(), pa.string())
        found = pc.is_in(keys, pa.array(item.keys, pa.string()))
        rows = np.flatnonzero(found.to_numpy(zero_copy_only=False)).astype(np.int64)
        return FoundRows(rows=rows, keys=frozenset(keys.filter(found).to_pylist()))
