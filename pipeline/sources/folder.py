"""A folder, or an s3:// prefix, of image files. Files are packed into shards by the plan, not here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from pipeline.core.errors import UserError
from pipeline.core.local import LocalStore
from pipeline.core.names import public_url
from pipeline.core.storage import Store, open_store
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.sources import SourceSpec
from pipeline.sources._files import read_entries
from pipeline.sources._found import Found
from pipeline.sources._hung import ReadsFiles


class Spec(SourceSpec):
    """Every file that matches; the key is its path relative to the folder."""

    packs: ClassVar[bool] = True

    def open(self, location: str) -> FolderSource:
        """Open the folder; a UserError when a local one is not there."""
        store = open_store(location)
        if isinstance(store, LocalStore) and not store.is_folder():
            raise UserError(public_url(location), "is no folder", "check the path or --source-kind")
        return FolderSource(self, store)


class FolderSource(ReadsFiles):
    """See pipeline.sources.Source."""

    def __init__(self, spec: Spec, store: Store) -> None:
        self._spec, self._store = spec, store
        self._found = Found(store, spec)

    @property
    def skipped(self) -> int:
        """Files that do not match, system files and what is no regular file."""
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
        """Yield matching files as the store lists them."""
        return self._found.files(self._spec.wants)

    def images(self, shard: Shard) -> Iterator[Image | Reject]:
        """Read the files of a packed shard."""
        return read_entries(self._store, shard, self.image_seconds)
