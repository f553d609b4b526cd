"""The encoded images behind results, read again from the source that the snapshot names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

from pipeline.core.errors import NotFoundError, ReadError, ShardError, UserError
from pipeline.core.storage import Store
from pipeline.core.types import Span
from pipeline.sources import MAX_IMAGE_BYTES
from pipeline.table import ImageRow


class Originals:
    """Reads single images of a source. spec: the recipe's; location: where the source lies, see Snapshot.source.

    row: returns what is stored of an image by its key, for those that are named by key and URI only.
    """

    def __init__(self, spec: Any, location: str, row: Callable[[str], ImageRow | None] | None = None) -> None:
        self._spec, self._location, self._row = spec, location, row

    # Both are opened when they are first asked: searches go on where the source has gone.

    @cached_property
    def _source(self) -> Any:
        return self._spec.open(self._location)

    @cached_property
    def _files(self) -> Store:
        store: Store = self._spec.files(self._location)
        return store

    def read(self, key: str, uri: str, sha256: str = "", span: Span | None = None) -> bytes:
        """Return the bytes of an image by its key and URI; UserError when it is no longer there, or not what it was.

        sha256: of the bytes that were indexed, where that is known. span: where they lay in their container: with both
        nothing else is read. Where other bytes lie there now, the container has changed, and is searched by name.
        ReadError when it cannot be read now, which says nothing of whether it is there.
        """
        digest = sha256
        if not digest and self._row is not None and not self._spec.packs:
            known = self._row(key)
            if known is not None and known.uri == uri:
                digest, span = known.sha256, known.span
        data = self._at(key, uri, span) if span is not None and digest else None
        if data is not None and hashlib.sha256(data).hexdigest() == digest:
            return data
        return self._named(key, uri, sha256)

    def _at(self, key: str, uri: str, span: Span) -> bytes | None:
        pick: Callable[[str, str, Span], bytes | None] | None = getattr(self._source, "pick_span", None)
        try:
            return pick(key, uri, span) if pick is not None else None
        except (NotFoundError, ShardError):
            return None

    def _named(self, key: str, uri: str, sha256: str) -> bytes:
        try:
            # A single file is its key: the URI is for people, and says nothing that the source does not.
            data: bytes | None = self._file(key, uri) if self._spec.packs else self._source.pick(key, uri)
        except (NotFoundError, ShardError):
            data = None
        except ReadError as error:
            raise ReadError(f"{uri}: cannot be read now ({error})") from None
        if data is None:
            raise UserError(uri, "is no longer there", "index the source anew")
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(uri, "has changed since it was indexed", "index the source anew")
        return data

    def _file(self, key: str, uri: str) -> bytes:
        if self._files.stat(key).size > MAX_IMAGE_BYTES:
            raise UserError(uri, "is too large for an image now", "index the source anew")
        return self._files.read(key)
