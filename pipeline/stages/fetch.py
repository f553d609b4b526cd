"""Descriptor files in order, each verified, the next one on its way while one is read."""

from __future__ import annotations

import shutil
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

    with staging.folder() as name, ThreadPoolExecutor(1, "fetch") as pool:

        def fetched(item: tuple[int, DescriptorFile]) -> tuple[Path, DescriptorReader]:
            number, file = item
            folder = Path(name) / str(number)
            folder.mkdir()
            return folder, DescriptorReader(catalog.fetch(file.artifact, folder), file.artifact.uri)

        found = ordered_map(
            fetched,
            enumerate(files),
            pool=pool,
            ahead=AHEAD,
            budget=BYTES_AHEAD,
            weigh=lambda item: item[1].artifact.bytes,
        )
        for folder, reader in found:
            yield reader
            shutil.rmtree(folder)
