"""The encoded images behind results, read again from the source that the snapshot names."""

from __future__ import annotations

from typing import Any

from pipeline.core.errors import SightlineError, UserError
from pipeline.core.names import public_url
from pipeline.core.storage import Store, open_store, split_location
from pipeline.core.types import Entry, Image, Shard


class Originals:
    """Reads single images of a source. spec: the recipe's; location: where the source lies, see Snapshot.source."""

    def __init__(self, spec: Any, location: str) -> None:
        self._spec, self._location = spec, location
        self._source = spec.open(location)

    def read(self, key: str, uri: str) -> bytes:
        """Return the bytes of an image by its key and URI; UserError when it is no longer there.

        Of an image inside a tar or Parquet shard the shard is read up to it.
        """
        file, _, _ = uri.partition("#")
        store, path = self._place(key, file)
        try:
            found = store.stat(path)
        except SightlineError:
            raise UserError(uri, "is no longer there", "index the source anew") from None
        # A packed file's path, as its source counts paths, is its key.
        entry = Entry(path=key if self._spec.packs else path, size=found.size, etag=found.etag)
        shard = Shard(id="", uri=file, bytes=found.size, etag=found.etag, entries=(entry,))
        for item in self._source.images(shard):
            if item.key == key and isinstance(item, Image):
                return item.data
        raise UserError(uri, "is no longer there", "index the source anew")

    def _place(self, key: str, file: str) -> tuple[Store, str]:
        """Return the store and the path of the file that an image is, or lies in."""
        for base in (getattr(self._spec, "root", "") or self._location, self._location):
            prefix = public_url(base).rstrip("/") + "/"
            if file.startswith(prefix):
                return open_store(base), file.removeprefix(prefix)
        if self._spec.packs:
            return open_store(getattr(self._spec, "root", "") or self._location.rpartition("/")[0]), key
        # SOURCE is the container itself.
        return split_location(self._location)
