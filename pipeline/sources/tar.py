"""Tar shards (WebDataset layout): streamed member by member, never extracted. Member names are labels, never paths.

An archive counts as whole only if every header is sound, the two zero blocks of the end are there, nothing but zeros
follows them, and as many bytes came as the listing promised. Python's tarfile would end quietly in most of these cases.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, ClassVar

from pipeline.core.errors import NotFoundError, ShardError
from pipeline.core.types import Entry, Image, Reject, Shard
from pipeline.sources import MAX_IMAGE_BYTES, CarryingSpec
from pipeline.sources._containers import Containers, ContainerSource
from pipeline.sources._files import label, too_large
from pipeline.sources._groups import SIDE_BYTES, SIDES, Side, grouped, split
from pipeline.sources._members import Members

SUFFIX = ".tar"
_BLOCK = 512
_BUFFER = 1 << 16


class Spec(CarryingSpec):
    """Every .tar beneath a folder, or one .tar; the key is "<tar path>/<member name>".

    Metadata comes from the side members x.json (its fields), x.txt and x.cls (fields of these names) of an image x.jpg.
    """

    packs: ClassVar[bool] = False

    def open(self, location: str) -> TarSource:
        """Open the folder or the archive; a UserError when a local one is not there."""
        return TarSource(self, Containers(location, SUFFIX))


class TarSource(ContainerSource[Spec]):
    """See pipeline.sources.Source. Members that do not match are passed over, and not counted."""

    def __init__(self, spec: Spec, containers: Containers) -> None:
        super().__init__(spec, containers)
        self._picked = Members(containers.store)

    def images(self, shard: Shard) -> Iterator[Image | Reject]:
        """Stream the members in their order; what comes before a fault has been yielded when ShardError is raised."""
        (entry,) = shard.entries
        try:
            raw = self._containers.store.open(entry.path)
        except NotFoundError:
            raise ShardError("is gone since it was listed") from None
        with raw:
            yield from grouped(self._members(_Counted(raw), entry), self._spec.columns)

    def container(self, key: str, uri: str) -> str:
        """Return the path of the archive: the URI ends as the key does, but for a "#" where the archive's name ends."""
        end = uri[-len(key) :]
        place = next((i for i, (one, other) in enumerate(zip(key, end, strict=False)) if one != other), 0)
        return key[:place] if end == f"{key[:place]}#{key[place + 1 :]}" else ""

    def pick_from(self, entry: Entry, key: str, uri: str) -> bytes | None:  # noqa: ARG002 - the key says it all
        """Return one member, without reading those before it."""
        return self._picked.read(entry, key.removeprefix(f"{entry.path}/"))

    def _members(self, stream: _Counted, entry: Entry) -> Iterator[tuple[str, Image | Reject | Side]]:
        """Yield what is wanted with the names of the members; side members only where metadata is."""
        uri = self._containers.uri(entry)
        try:
            archive = tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER)  # noqa: SIM115 - it owns nothing
            for member in archive:
                # A header may promise more than there is: without this check tarfile would read on for ever.
                if archive.offset > entry.size or archive.fileobj is None:
                    raise ShardError(f"truncated: member {label(member.name)!r} reaches beyond the end")
                name = label(member.name)
                item = self._side(archive, member, name) or self._item(archive, member, f"{entry.path}/{name}", uri)
                if item is not None:
                    yield name, item
                # tarfile keeps every member it has seen; a shard may have a million.
                archive.members = []  # type: ignore[attr-defined]  # typeshed leaves it out
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise ShardError(f"is no sound tar archive ({' '.join(str(error).split())})") from None
        stream.expect_end(archive.offset, entry.size)

    def _item(self, archive: tarfile.TarFile, member: tarfile.TarInfo, key: str, uri: str) -> Image | Reject | None:
        if member.isdir() or not self._spec.wants(key):
            return None
        where = f"{uri}#{label(member.name)}"
        if not member.isreg() or member.issparse():
            return Reject(key=key, uri=where, reason="not a regular file (link, device or sparse member)", bytes=0)
        if member.size > MAX_IMAGE_BYTES:
            return Reject(key=key, uri=where, reason=too_large(member.size), bytes=member.size)
        file = archive.extractfile(member)
        assert file is not None, "a regular member has content"
        data = file.read()
        if len(data) != member.size:
            raise ShardError(f"truncated: member {label(member.name)!r} ends early")
        return Image(key=key, uri=where, data=data)

    def _side(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> Side | None:
        _, suffix = split(name)
        if not self._spec.metadata or suffix not in SIDES or not member.isreg() or member.issparse():
            return None
        file = archive.extractfile(member)
        assert file is not None, "a regular member has content"
        data = file.read(SIDE_BYTES)
        if len(data) != min(member.size, SIDE_BYTES):
            raise ShardError(f"truncated: member {name!r} ends early")
        return Side(suffix=suffix, data=data, whole=len(data) == member.size)


class _Counted(io.RawIOBase):
    """A readable that remembers how far it got and its last bytes, to judge how an archive ends."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__()
        self._raw = raw
        self._count = 0
        self._tail = b""

    def read(self, size: int = -1, /) -> bytes:
        """Read on, remembering."""
        data = self._raw.read(size)
        self._count += len(data)
        self._tail = (self._tail + data)[-2 * _BUFFER :]
        return data

    def expect_end(self, offset: int, size: int) -> None:
        """Raise ShardError unless two zero blocks stand at `offset` and only zeros follow, up to byte `size`."""
        while self._count < offset + 2 * _BLOCK and self.read(_BUFFER):
            pass
        # tarfile reads less than one buffer beyond the header it stopped at, so the tail reaches back to it.
        start = self._count - len(self._tail)
        assert start <= offset, "the tail holds the end of the archive"
        end = self._tail[offset - start :]
        if self._count < offset + 2 * _BLOCK:
            raise ShardError(f"truncated: {self._count} bytes, and no end-of-archive blocks")
        if any(end[: 2 * _BLOCK]):
            raise ShardError(f"is no sound tar archive (bad header at byte {offset})")
        rest = end
        while rest:
            if any(rest):
                raise ShardError("holds data after its end (concatenated archives?); write it as one archive")
            rest = self.read(_BUFFER)
        if self._count != size:
            raise ShardError(f"has {self._count} bytes where {size} were listed")
