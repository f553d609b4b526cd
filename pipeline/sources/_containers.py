"""What sources of container files (tar, Parquet) share: finding them, and listing them as shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa

from pipeline.core.errors import ContentError, NotFoundError, ShardError, UserError, of_reading
from pipeline.core.local import LocalStore
from pipeline.core.names import parse_location, public_url
from pipeline.core.storage import Store, open_store, split_location
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.core.vectors import VectorBlock
from pipeline.sources import SourceSpec
from pipeline.sources._found import Found
from pipeline.sources._names import place_of

S = TypeVar("S", bound=SourceSpec)
T = TypeVar("T")


class Containers:
    """The files with a suffix, or one of several, beneath a folder, or a single one."""

    def __init__(self, location: str, suffix: str | tuple[str, ...]) -> None:
        self._suffix, self._only = suffix, ""
        self.store: Store
        if parse_location(location).path.lower().endswith(suffix) and not Path(location).is_dir():
            self.store, self._only = split_location(location)
            if not self.store.exists(self._only):
                raise UserError(public_url(location), "does not exist", "check the path")
            return
        self.store = open_store(location)
        if isinstance(self.store, LocalStore) and not self.store.is_folder():
            raise UserError(public_url(location), "does not exist or is no folder", "check the path or --source-kind")

    def listing(self, found: Found) -> Iterator[Entry]:
        """Yield the containers in byte order; `found` counts the other files of a folder."""
        if self._only:
            yield self.store.stat(self._only)
            return
        yield from found.files(lambda path: path.lower().endswith(self._suffix))

    def uri(self, entry: Entry) -> str:
        """Return where a container lies, fit to be published."""
        return f"{public_url(self.store.url).rstrip('/')}/{entry.path}"


class ContainerSource(Generic[S]):
    """What sources of containers share; see pipeline.sources.Source."""

    def __init__(self, spec: S, containers: Containers) -> None:
        self._spec, self._containers = spec, containers
        self._found = Found(containers.store, spec)

    @property
    def skipped(self) -> int:
        """Files with another suffix, and excluded or system files."""
        return self._found.skipped

    @property
    def skipped_by(self) -> Mapping[str, int]:
        """The same by suffix."""
        return self._found.skipped_by

    @property
    def unreadable(self) -> list[str]:
        """Folders that could not be listed."""
        return self._found.unreadable

    def listing(self) -> Iterator[Entry]:
        """Yield the containers."""
        return self._containers.listing(self._found)

    def pick(self, key: str, uri: str) -> bytes | None:
        """Return the encoded bytes of one image, as `images` names it; None when its container has none such.

        Raises NotFoundError when the container is gone, ShardError when it cannot be read any more.
        """
        path = self.container(key, uri)
        return self.pick_from(self._containers.store.stat(path), key, uri) if path else None

    def container(self, key: str, uri: str) -> str:
        """Return the path of the container that an image lies in; "" when key and URI are none of this kind.

        The URI may stem from another place that held the same files: where it begins does not count.
        """
        place = place_of(uri)
        if place is None:
            return ""
        file, *_ = place
        above = (key[:end] for end, letter in enumerate(key) if letter == "/")
        paths = [path for path in above if file.endswith(f"/{path}")]
        # Several fit only where a folder is named as the container in it is, and the image's own name begins so too.
        here = [path for path in paths if file == f"{public_url(self._containers.store.url).rstrip('/')}/{path}"]
        return (here + paths + [""])[0]

    def pick_from(self, entry: Entry, key: str, uri: str) -> bytes | None:  # noqa: ARG002 - quicker ways need it
        """Return one image of a container by walking it; kinds know quicker ways."""
        shard = Shard(id="", uri="", bytes=entry.size, etag=entry.etag, entries=(entry,))
        for item in self.images(shard):
            if item.key == key and isinstance(item, Image):
                return item.data
        return None

    def images(self, shard: Shard) -> Iterator[Image | Reject]:
        """See pipeline.sources.Source. ContentError only for a container that is still the one that was listed."""
        (entry,) = shard.entries
        return self.as_listed(entry, self.items(entry))

    def as_listed(self, entry: Entry, items: Iterator[T]) -> Iterator[T]:
        """Pass on what is read of a container; ContentError only where it is still the one that was listed."""
        try:
            yield from items
        except ContentError as error:
            if self._changed(entry):
                raise ShardError(f"changed since it was listed ({error})") from None
            raise

    def items(self, entry: Entry) -> Iterator[Image | Reject]:
        """Yield every image of a container in a fixed order; ShardError when it cannot be read to its end."""
        raise NotImplementedError

    def _changed(self, entry: Entry) -> bool:
        """Tell whether another file lies where a container was listed; a read that fails now tells nothing of it."""
        try:
            now = self._containers.store.stat(entry.path)
        except NotFoundError:
            return True
        touched = None not in (now.changed, entry.changed) and now.changed != entry.changed
        return touched or (now.size, now.etag) != (entry.size, entry.etag)


def selected(block: VectorBlock, spec: SourceSpec) -> VectorBlock:
    """Return the rows of a block whose keys the source's `match` and `exclude` let pass."""
    if not spec.match and not spec.exclude:
        return block
    return block.selected(np.fromiter(map(spec.selects, block.keys), np.bool_, len(block)))


def unsound(error: Exception, what: str) -> Exception:
    """Return the error for one of a library's that reads a container: itself where it says nothing of the bytes."""
    if of_reading(error):
        return error
    # What this build of a library cannot read, another one may.
    kind = ShardError if isinstance(error, pa.ArrowNotImplementedError) else ContentError
    return kind(f"is no sound {what} file ({' '.join(str(error).split())[:160]})")
