"""The encoded images behind results, read again from the source that the snapshot names."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

from pipeline.core.errors import NotFoundError, ShardError, UserError
from pipeline.core.names import public_url
from pipeline.core.storage import Store, open_store, split_location
from pipeline.core.types import Entry
from pipeline.sources import MAX_IMAGE_BYTES


class Originals:
    """Reads single images of a source. spec: the recipe's; location: where the source lies, see Snapshot.source."""

    def __init__(self, spec: Any, location: str) -> None:
        self._spec, self._location = spec, location

    @cached_property
    def _source(self) -> Any:
        # Opened when it is first asked: searches go on where the source has gone.
        return self._spec.open(self._location)

    def read(self, key: str, uri: str, sha256: str = "") -> bytes:
        """Return the bytes of an image by its key and URI; UserError when it is no longer there, or not what it was.

        sha256: of the bytes that were indexed, where that is known.
        """
        file, _, _ = uri.partition("#")
        store, path = self._place(key, file)
        try:
            found = store.stat(path)
            if self._spec.packs:
                if found.size > MAX_IMAGE_BYTES:
                    raise UserError(uri, "is too large for an image now", "index the source anew")
                data: bytes | None = store.read(path)
            else:
                # Of a source that is one container, `path` is its name in its folder, as its keys begin.
                data = self._source.pick(Entry(path=path, size=found.size, etag=found.etag), key, uri)
        except (NotFoundError, ShardError):
            data = None
        if data is None:
            raise UserError(uri, "is no longer there", "index the source anew")
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(uri, "has changed since it was indexed", "index the source anew")
        return data

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
