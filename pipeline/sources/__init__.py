"""Sources: where images come from, one file per kind. A kind lists entries and yields images; it decodes nothing.

`Source` is what a kind's `Spec.open(location)` returns. Keys are relative to SOURCE: a path, or for images inside a
container "<container path>/<member>". All reading goes through pipeline.core.storage, so local and s3:// are one code.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Protocol

from pydantic import AfterValidator, Field

from pipeline.core.metadata import Column, Kind, checked, columns
from pipeline.core.specs import Spec
from pipeline.core.storage import Store, open_store
from pipeline.core.types import Entry, Image, Reject, Shard

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mpo")
_PLACE = re.compile(r"#row=([0-9]+)(?:&item=([0-9]+))?\Z")
MAX_IMAGE_BYTES = 256 << 20
"""Larger encoded images are rejected unread: no photograph comes near, and memory must stay bounded."""


class Source(Protocol):
    """One opened collection."""

    @property
    def skipped(self) -> int:
        """Objects passed over so far because they do not match; complete once `listing` is exhausted."""
        ...

    def listing(self) -> Iterator[Entry]:
        """Yield the entries in byte order of their paths; never holds them all when the store can stream."""
        ...

    def images(self, shard: Shard) -> Iterator[Image | Reject]:
        """Yield every image of a shard in a fixed order; what cannot be read is a Reject.

        Raises ShardError when the shard as a whole cannot be read to its end (truncated, corrupt container).
        """
        ...


class SourceSpec(Spec):
    """Settings of a source that change what is indexed. `match` selects images by a glob on their key."""

    family: ClassVar[str] = "pipeline.sources"
    packs: ClassVar[bool]
    """True: an entry is one image, and the plan packs entries into shards. False: an entry is a shard."""

    match: str = ""

    def open(self, location: str) -> Source:
        """Open SOURCE; a UserError when it is not there or not of this kind."""
        raise NotImplementedError

    def files(self, location: str) -> Store:
        """Return where the files of a source that packs lie: the keys are names there. Nothing is listed or read."""
        return open_store(location)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Metadata that images come with, sorted by name; kinds that carry none have none."""
        return ()

    @property
    def kinds(self) -> dict[str, Kind]:
        """The same by name."""
        return {column.name: column.kind for column in self.columns}

    def key_is_row(self, key: str, uri: str) -> bool:
        """Tell whether a key is made of the image's place in a table, so that another image has it once rows move.

        An image of a table says its row in its URI, and its place in the row where that is a list; what hangs on it is
        in pipeline/stages/deletions.py.
        """
        place = _PLACE.search(uri)
        if place is None:
            return False
        row, item = int(place[1]), place[2]
        return key.endswith((f"/{row:09d}", f"#{row}") if item is None else (f"#{item}",))

    def wants(self, key: str) -> bool:
        """Tell whether an image of that key is to be indexed: by `match`, or else by an image suffix."""
        if self.match:
            return fnmatch.fnmatchcase(key, self.match)
        return key.lower().endswith(IMAGE_SUFFIXES)


class CarryingSpec(SourceSpec):
    """A source that carries metadata: {"license": "string", "year": "int64:taken.year"}, see pipeline.core.metadata.

    A value that cannot be of its type is null, and counted (`null_<name>` in the statistics of a run).
    """

    metadata: Annotated[dict[str, str], AfterValidator(checked)] = Field(default_factory=dict)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is declared."""
        return columns(self.metadata)
