"""Sources: where images come from, one file per kind. A kind lists entries and yields images; it decodes nothing.

`Source` is what a kind's `Spec.open(location)` returns. Keys are relative to SOURCE: a path, or for images inside a
container "<container path>/<member>". All reading goes through pipeline.core.storage, so local and s3:// are one code.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Protocol, runtime_checkable

from pydantic import AfterValidator, Field, JsonValue

from pipeline.core.metadata import Column, Kind, checked, columns
from pipeline.core.specs import Spec
from pipeline.core.storage import Store, open_store
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.core.vectors import VectorBlock

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mpo"),
    *(".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    *(".pnm", ".ppm", ".pgm", ".pbm"),
)
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".jpm", ".jxr", ".pam", ".pfm", ".tga", ".ico", ".pcx", ".dds", ".exr"),
    *(".hdr", ".qoi", ".svg", ".psd", ".psb", ".xcf", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf"),
    *(".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".raw", ".3fr", ".iiq", ".dcm", ".fits", ".jp2k"),
    *(".apng", ".dib"),
)
"""Suffixes of pictures that are counted as skipped within a container."""
_PLACE = re.compile(r"#row=([0-9]+)(?:&item=([0-9]+))?\Z")
MAX_IMAGE_BYTES = 256 << 20
"""Larger encoded images are rejected unread: no photograph comes near, and memory must stay bounded."""


_SYSTEM_FILES = frozenset((".ds_store", "thumbs.db", "desktop.ini"))
_SYSTEM_FOLDERS = frozenset(
    (
        "__macosx",
        "@eadir",
        ".trashes",
        ".spotlight-v100",
        ".fseventsd",
        ".thumbnails",
        ".@__thumb",
        ".appledouble",
        "lost+found",
        "$recycle.bin",
        "#recycle",
        "@recycle",
        "system volume information",
    )
)


def is_system_file(path: str) -> bool:
    """Tell whether a path, of a file or a folder, is what systems leave beside people's files, and holds no image.

    AppleDouble files ("._name"), trash, thumbnail caches and the like; some of them end as images do.
    """
    *folders, name = path.lower().rstrip("/").split("/")
    if name.startswith("._") or name in _SYSTEM_FILES:
        return True
    return any(part in _SYSTEM_FOLDERS or part.startswith(".trash-") for part in (*folders, name))


def in_hidden_folder(path: str) -> bool:
    """Tell whether a path lies in a folder whose name begins with a dot."""
    return any(part.startswith(".") and part.strip(".") for part in path.split("/")[:-1])


class Source(Protocol):
    """One opened collection."""

    @property
    def skipped(self) -> int:
        """Objects passed over so far because they do not match; complete once `listing` is exhausted."""
        ...

    @property
    def unreadable(self) -> Sequence[str]:
        """Folders ("path/") that `listing` could not read so far: what they held before is not known to be deleted."""
        ...

    @property
    def skipped_by(self) -> Mapping[str, int]:
        """What is skipped by suffix, or "system", as far as these are told apart."""
        ...

    def listing(self) -> Iterator[Entry]:
        """Yield the entries in byte order of their paths; never holds them all when the store can stream."""
        ...

    def images(self, shard: Shard) -> Iterator[Image | Reject]:
        """Yield every image of a shard in a fixed order; what cannot be used is a Reject.

        A file that cannot be read now is one of status "unread" where entries are single images; else ReadError or
        TransientError is raised. ShardError when the shard as a whole cannot be read to its end: ContentError when its
        bytes are the reason (truncated, corrupt container) or the columns that it has.
        """
        ...


@runtime_checkable
class VectorSource(Protocol):
    """A source whose files may hold vectors, and which hands them over by the block as well as one at a time."""

    def holds_vectors(self, shard: Shard) -> bool:
        """Tell whether the file of a shard holds vectors; raises what `images` would."""
        ...

    def vectors(self, shard: Shard) -> Iterator[VectorBlock]:
        """Yield the rows that `images` would yield, in their order; no two of them have one key. Raises the same."""
        ...


class SourceSpec(Spec):
    """Settings of a source that change what is indexed.

    match selects images by a glob on their key, exclude passes over those that match one of several; "*" matches "/"
    too. skip_system passes over system files, and where files are found in folders, over hidden folders.
    """

    family: ClassVar[str] = "pipeline.sources"
    packs: ClassVar[bool]
    """True: an entry is one image, and the plan packs entries into shards. False: an entry is a shard."""

    initial: ClassVar[dict[str, JsonValue]] = {"skip_system": True}

    match: str = ""
    exclude: tuple[str, ...] = ()
    skip_system: bool = False

    def open(self, location: str) -> Source:
        """Open SOURCE; a UserError when it is not there or not of this kind."""
        raise NotImplementedError

    def files(self, location: str) -> Store:
        """Return where the files of a source that packs lie: the keys are names there. Nothing is listed or read."""
        return open_store(location)

    def notes(self, location: str, entries: Sequence[Entry]) -> list[str]:  # noqa: ARG002 - kinds need them
        """Return what is worth knowing before containers are read, a line each; reads little of each."""
        return []

    @property
    def columns(self) -> tuple[Column, ...]:
        """Metadata that images come with, sorted by name; kinds that carry none have none."""
        return ()

    @property
    def kinds(self) -> dict[str, Kind]:
        """The same by name."""
        return {column.name: column.kind for column in self.columns}

    @property
    def last_counts(self) -> bool:
        """Whether the last of equal keys of a shard counts, as in archives that were appended to; else the first."""
        return False

    def selects(self, key: str) -> bool:
        """Tell whether `match` and `exclude` let a key pass; all that counts where somebody named the image."""
        if any(fnmatch.fnmatchcase(key, glob) for glob in self.exclude):
            return False
        return not self.match or fnmatch.fnmatchcase(key, self.match)

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
        if self.skip_system and is_system_file(key):
            return False
        return self.selects(key) and (bool(self.match) or key.lower().endswith(IMAGE_SUFFIXES))

    def enters(self, path: str) -> bool:
        """Tell whether a file, or a folder ("name/"), that was found beneath SOURCE may hold or be something wanted."""
        if self.skip_system and (is_system_file(path) or in_hidden_folder(path)):
            return False
        return not any(fnmatch.fnmatchcase(path, glob) for glob in self.exclude)


class CarryingSpec(SourceSpec):
    """A source that carries metadata: {"license": "string", "year": "int64:taken.year"}, see pipeline.core.metadata.

    A value that cannot be of its type is null, and counted (`null_<name>` in the statistics of a run).
    """

    metadata: Annotated[dict[str, str], AfterValidator(checked)] = Field(default_factory=dict)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is declared."""
        return columns(self.metadata)
