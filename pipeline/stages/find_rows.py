"""Find the rows of named images in descriptor files: what turns a key into a tombstone."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
class FindRowsTask:
    """Work for a runner: from a FindItem to the sorted rows (n,) that hold one of its keys."""

    root: str

    uses_gpu = False

    def open(self, threads: int) -> FindRowsTask:  # noqa: ARG002 - part of the protocol
        """Nothing to load."""
        return self

    def __call__(self, item: FindItem) -> Ints:
        """Read the keys of the file and compare."""
        catalog = Catalog(open_store(self.root))
        with tempfile.TemporaryDirectory() as folder:
            reader = DescriptorReader(catalog.fetch(item.file.artifact, Path(folder)), item.file.artifact.uri)
            found = pc.is_in(pa.array(reader.keys(), pa.string()), pa.array(item.keys, pa.string()))
        return np.flatnonzero(found.to_numpy(zero_copy_only=False)).astype(np.int64)
