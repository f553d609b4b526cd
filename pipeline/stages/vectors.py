"""Files of vectors into descriptor files, block by block: memory is that of a block, whatever the file holds.

The files are those that `describe` and `table.write_descriptors` would make of the same rows one at a time. Keys of a
file of vectors never repeat (see sources/_names.py), so nothing has to be known of rows that are past.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core import columns as arrow
from pipeline.core import staging
from pipeline.core.errors import ReadError
from pipeline.core.metadata import Kind
from pipeline.core.row_groups import RowGroupWriter
from pipeline.core.stats import Stats, category
from pipeline.core.types import DescriptorBatch, DType, Floats, Reject
from pipeline.core.vectors import VALUE, VectorBlock
from pipeline.extract import VectorExtractor
from pipeline.features.usable import whitened
from pipeline.rejects import RejectsFile
from pipeline.stages.completed import Counts, ShardFiles
from pipeline.table import schema, table_writer

NULL = "is null"


@dataclass(frozen=True, kw_only=True)
class VectorSettings:
    """How vectors become descriptors. recipe: its descriptor id; metadata: columns; zero_means: see ExtractSpec."""

    extractor: VectorExtractor
    whiten: Callable[[Floats], Floats] | None
    dtype: DType
    recipe: str
    metadata: Mapping[str, Kind]
    zero_means: str = ""


@dataclass
class _Sums:
    """What has been seen so far: reasons of rejects, and of the rows indexed how many lack which metadata."""

    indexed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    nulls: Counter[str] = field(default_factory=Counter)


class VectorShards:
    """Writes the files of one shard after the other; thread-safe. stop: see `Describer.stop`."""

    def __init__(self, settings: VectorSettings, stats: Stats, stopped: threading.Event) -> None:
        self._settings, self._stats, self._stopped = settings, stats, stopped

    def __call__(self, blocks: Iterable[VectorBlock], folder: Path) -> ShardFiles:
        """Write the descriptor file of some blocks, and that of their rejects, into a folder."""
        descriptors, rejects = folder / "descriptors.parquet", folder / "rejects.parquet"
        settings, sums, dim = self._settings, _Sums(), self._dim()
        target = schema(dim, settings.dtype, settings.recipe, metadata=settings.metadata)
        with staging.writing(), table_writer(descriptors, target) as good, RejectsFile(rejects) as bad:
            for block in self._timed(iter(blocks)):
                self._stats.add("bytes", float(block.values.nbytes))
                with self._stats.timed("forward_seconds"):
                    self._write(block, good, bad, sums)
        if self._stopped.is_set():
            raise InterruptedError("the run is ending")
        for reason, count in sums.reasons.items():
            self._stats.add(f"rejected:{reason}", count)
        for name in settings.metadata:
            self._stats.add(f"null_{name}", sums.nulls[name])
        counts = Counts(rows=sums.indexed, dim=dim, indexed=sums.indexed, rejected=bad.count)
        return ShardFiles(descriptors=descriptors, rejects=rejects if bad.count else None, counts=counts)

    def _dim(self) -> int:
        none = np.zeros((0, self._settings.extractor.dim), np.float32)
        return int((none if self._settings.whiten is None else self._settings.whiten(none)).shape[1])

    def _timed(self, blocks: Iterator[VectorBlock]) -> Iterator[VectorBlock]:
        while True:
            with self._stats.timed("read_seconds"), _of_reading():
                block = next(blocks, None)
            if block is None or self._stopped.is_set():
                return
            yield block

    def _write(self, block: VectorBlock, good: RowGroupWriter, bad: RejectsFile, sums: _Sums) -> None:
        settings, digests = self._settings, block.digests()
        vectors, refused = settings.extractor.normalized(block)
        made = whitened(DescriptorBatch.of_images(vectors), settings.whiten, settings.dtype)
        reasons = dict.fromkeys(np.flatnonzero(~block.there).tolist(), NULL) | refused
        usable = np.delete(np.arange(len(block)), list(reasons))
        unsearchable = {int(usable[place]): made.reason(settings.zero_means, int(place)) for place in made.images}
        bad.add([_reject(block, digests, row, reasons[row]) for row in sorted(reasons)])
        bad.at_the_end([_reject(block, digests, row, reason) for row, reason in unsearchable.items()])
        sums.reasons.update(map(category, [*reasons.values(), *unsearchable.values()]))
        rows = np.delete(usable, made.images).tolist()
        table = self._table(block, rows, [digests[row] for row in rows], made.batch.vectors)
        sums.indexed += table.num_rows
        sums.nulls.update({name: table[name].null_count for name in settings.metadata})
        good.add(table)

    def _table(self, block: VectorBlock, rows: Sequence[int], digests: Sequence[str], vectors: Floats) -> pa.Table:
        settings = self._settings
        target = schema(vectors.shape[1], settings.dtype, settings.recipe, metadata=settings.metadata)
        known = [block.metadata[row] for row in rows] if settings.metadata else []
        no_size = pa.array(np.zeros(len(rows), np.int32))
        columns = [
            pa.array([block.keys[row] for row in rows], pa.string()),
            pa.array([block.uris[row] for row in rows], pa.string()),
            *(no_size, no_size),
            pa.array(digests, pa.string()),
            arrow.encoded(vectors, settings.dtype, target.field("descriptor").type),
            *(arrow.metadata_array(known, name, kind) for name, kind in settings.metadata.items()),
        ]
        return pa.Table.from_arrays(columns, schema=target)


@contextmanager
def _of_reading() -> Iterator[None]:
    """Tell errors of the place that is read from those of the place that is written to."""
    try:
        yield
    except OSError as error:
        raise ReadError(" ".join(str(error).split())) from None
    except MemoryError:
        raise ReadError("not enough memory to read a block of it") from None


def _reject(block: VectorBlock, digests: Sequence[str], row: int, reason: str) -> Reject:
    size = int(block.lengths[row]) * VALUE.itemsize
    return Reject(key=block.keys[row], uri=block.uris[row], reason=reason, bytes=size, sha256=digests[row])
