"""Arrow files as Hugging Face's `save_to_disk` leaves them: columns of encoded images, or of vectors.

Read as streams, which is what that library writes, or else as files of the Arrow IPC format.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, ClassVar

import pyarrow as pa

from pipeline.core.errors import NotFoundError, ShardError
from pipeline.core.types import Image, Reject, Shard
from pipeline.sources import CarryingSpec
from pipeline.sources._columns import columns_of, items_of, metadata_columns
from pipeline.sources._containers import Containers, ContainerSource

SUFFIX = ".arrow"
MAGIC = b"ARROW1"
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What a stream ends with."""


class Spec(CarryingSpec):
    """The same settings as those of Parquet: image_column, key_column, metadata. The key is "<file>/<name>"."""

    packs: ClassVar[bool] = False

    image_column: str = ""
    key_column: str = ""

    def open(self, location: str) -> ArrowSource:
        """Open the folder or the file; a UserError when a local one is not there."""
        return ArrowSource(self, Containers(location, SUFFIX))


class ArrowSource(ContainerSource[Spec]):
    """See pipeline.sources.Source."""

    def images(self, shard: Shard) -> Iterator[Image | Reject]:
        """Stream the rows in their order; ShardError when the file cannot be read to its end."""
        (entry,) = shard.entries
        uri, number = self._containers.uri(entry), 0
        try:
            with self._containers.store.open(entry.path) as file:
                schema, batches = _opened(file)
                columns = columns_of(schema, self._spec.image_column, self._spec.key_column)
                metadata = self._spec.columns
                metadata_columns(schema, metadata)
                for batch in batches:
                    for item in items_of(batch, columns, number, entry.path, uri, metadata):
                        if self._spec.selects(item.key):
                            yield item
                    number += batch.num_rows
        except NotFoundError:
            raise ShardError("is gone since it was listed") from None
        except (pa.ArrowException, OSError) as error:
            line = " ".join(str(error).split())[:160]
            raise ShardError(f"is no sound Arrow file ({line})") from None


def _opened(file: BinaryIO) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    magic = file.read(len(MAGIC))
    file.seek(-len(END), io.SEEK_END)
    whole = file.read() == END
    file.seek(0)
    if magic == MAGIC:
        reader = pa.ipc.open_file(file)
        return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))
    # A stream that breaks off between two batches looks complete to Arrow.
    if not whole:
        raise ShardError("truncated: the stream has no end")
    stream = pa.ipc.open_stream(file)
    return stream.schema, _to_the_end(stream)


def _to_the_end(stream: pa.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    for batch in stream:
        batch.validate()
        yield batch
