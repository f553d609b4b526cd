"""Descriptor files in order, each verified, the next one on its way while one is read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.core import staging
from pipeline.core.prefetch import ordered_map
from pipeline.core.types import DescriptorFile
from pipeline.publish.catalog import Catalog
from pipeline.table import DescriptorReader

AHEAD, BYTES_AHEAD = 4, 512 << 20
"""Files, and bytes of local disk, that may be on their way."""


def readers(catalog: Catalog, files: Sequence[DescriptorFile]) -> Iterator[DescriptorReader]:
    """Yield a reader of each file; it may be used until the next one is asked for."""

    def fetched(file: DescriptorFile) -> tuple[tempfile.TemporaryDirectory[str], DescriptorReader]:
        folder = staging.folder()
        return folder, DescriptorReader(catalog.fetch(file.artifact, Path(folder.name)), file.artifact.uri)

    with ThreadPoolExecutor(1, "fetch") as pool:
        found = ordered_map(
            fetched, files, pool=pool, ahead=AHEAD, budget=BYTES_AHEAD, weigh=lambda file: file.artifact.bytes
        )
        for folder, reader in found:
            with folder:
                yield reader
