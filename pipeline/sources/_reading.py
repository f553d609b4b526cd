"""One pass over a tar archive: its members as images, rejects and side members, in their order.

Rules 1 and 2 are those of tar.Spec. Whether the archive is whole is judged at its end; see _tar_stream.py.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.core.errors import ContentError, ShardError
from pipeline.core.ranges import read_at
from pipeline.core.types import Image, Reject, Span
from pipeline.sources import IMAGE_SUFFIXES, MAX_IMAGE_BYTES, UNREAD_SUFFIXES, SourceSpec
from pipeline.sources._files import too_large
from pipeline.sources._groups import SIDE_BYTES, SIDES, Side, split
from pipeline.sources._members import Rules, Table, member_name, note
from pipeline.sources._sides import JSON_BYTES, side_suffix
from pipeline.sources._skipped import SYSTEM, skipped_as
from pipeline.sources._tar_stream import BROKEN, BUFFER, Header, TarStream, unsound

Item = Image | Reject | Side
LATER = "a later member has the same name"
_PICTURES = {*IMAGE_SUFFIXES, *UNREAD_SUFFIXES}
_STEP = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A hard link of a compressed archive: what is made of the bytes of its target, which are read in a second pass."""

    span: Span
    make: Callable[[bytes], Item]


class Reading:
    """Reads one archive. path, uri: of the archive; size: as listed; reopen: opens it anew, for hard links."""

    def __init__(
        self, spec: SourceSpec, rules: Rules, path: str, uri: str, size: int, reopen: Callable[[], BinaryIO]
    ) -> None:
        self._spec, self._rules, self._path, self._uri, self._size = spec, rules, path, uri, size
        self._reopen = reopen
        self._before: Table = {}
        self._later: dict[str, _Wanted] = {}

    def items(self, file: BinaryIO) -> Iterator[tuple[str, Item]]:
        """Yield what is wanted with the names of the members; ContentError at the end unless the archive is whole."""
        stream = TarStream(file, self._size)
        try:
            archive = tarfile.open(  # noqa: SIM115 - it owns nothing
                fileobj=stream, mode="r|", bufsize=BUFFER, tarinfo=Header, encoding="utf-8"
            )
            for member in archive:
                name = member_name(member.name, self._rules)
                # A header may promise more than there is: without this check tarfile would read on for ever.
                stream.expect_within(archive.offset, name)
                yield from self._member(archive, member, name, plain=not stream.codec)
                # tarfile keeps every member it has seen; a shard may have a million.
                archive.members = []  # type: ignore[attr-defined]  # typeshed leaves it out
        except BROKEN as error:
            raise unsound(error) from None
        stream.expect_end(archive.offset)
        if self._later:
            yield from self._second_pass()

    def _member(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, *, plain: bool
    ) -> Iterator[tuple[str, Item]]:
        if self._rules == 2:
            note(self._before, member, self._rules)
            if name in self._later and not member.isdir():
                size = self._later.pop(name).span[1]
                yield name, Reject(key=self._key(name), uri=f"{self._uri}#{name}", reason=LATER, bytes=size)
        if member.isdir():
            return
        passed = self._passed_over(name, member) if self._rules == 2 else None
        found = passed or self._side(archive, member, name, plain) or self._image(archive, member, name, plain)
        if isinstance(found, _Wanted):
            self._later[name] = found
        elif found is not None:
            yield name, found

    def _key(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _passed_over(self, name: str, member: tarfile.TarInfo) -> Reject | None:
        """Return what is counted as skipped: files of the system, and pictures of formats that are not wanted."""
        reason = skipped_as(name)
        if reason != SYSTEM and (self._spec.wants(self._key(name)) or reason not in _PICTURES):
            return None
        where = f"{self._uri}#{name}"
        return Reject(key=self._key(name), uri=where, reason=reason, bytes=member.size, status="skipped")

    def _image(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, plain: bool
    ) -> Image | Reject | _Wanted | None:
        key, where = self._key(name), f"{self._uri}#{name}"
        if not self._spec.wants(key):
            return None
        span = self._span(member, name)
        if span is None:
            return Reject(key=key, uri=where, reason=self._reason(member), bytes=0)
        if span[1] > MAX_IMAGE_BYTES:
            return Reject(key=key, uri=where, reason=too_large(span[1]), bytes=span[1])

        def make(data: bytes) -> Image:
            return Image(key=key, uri=where, data=data, span=span if plain else None)

        if member.islnk():
            return make(self._bytes_at(span, span[1], name)) if plain else _Wanted(span=span, make=make)
        return make(_content(archive, member, name, member.size))

    def _reason(self, member: tarfile.TarInfo) -> str:
        if self._rules == 2 and member.islnk():
            return f"a hard link to no member before it: {member_name(member.linkname, self._rules)}"
        return "not a regular file (link, device or sparse member)"

    def _span(self, member: tarfile.TarInfo, name: str) -> Span | None:
        """Return where the bytes of a regular member lie, or by rules 2 those that a hard link names."""
        if member.isreg() and not member.issparse():
            return member.offset_data, member.size
        return self._before.get(name) if member.islnk() else None

    def _side(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, plain: bool) -> Side | _Wanted | None:
        suffix = split(name)[1] if self._rules == 1 else side_suffix(name)
        span = self._span(member, name)
        if not self._spec.columns or suffix not in SIDES or span is None:
            return None
        bound = JSON_BYTES if self._rules == 2 and suffix == "json" else SIDE_BYTES

        def make(data: bytes) -> Side:
            return Side(suffix=suffix, data=data, whole=len(data) == span[1])

        if not member.islnk():
            return make(_content(archive, member, name, bound))
        if plain:
            return make(self._bytes_at(span, min(span[1], bound), name))
        return _Wanted(span=(span[0], min(span[1], bound)), make=make) if span[1] <= bound else None

    def _bytes_at(self, span: Span, size: int, name: str) -> bytes:
        with self._reopen() as file:
            data = read_at(file, span[0], size)
        if len(data) != size:
            raise ContentError(f"truncated: the target of hard link {name!r} ends early")
        return data

    def _second_pass(self) -> Iterator[tuple[str, Item]]:
        """Read the targets of the hard links of a compressed archive, in their order; no more than one is held."""
        wanted = sorted(self._later.items(), key=lambda item: (item[1].span, item[0]))
        span, data, position = (-1, 0), b"", 0
        with self._reopen() as file:
            stream = TarStream(file, self._size)
            for name, link in wanted:
                if link.span != span:
                    span = link.span
                    _read(stream, span[0] - position, keep=False)
                    data = _read(stream, span[1], keep=True)
                    position = sum(span)
                yield name, link.make(data)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, most: int) -> bytes:
    """Return the first bytes of a regular member, at most so many."""
    file = archive.extractfile(member)
    assert file is not None, "a regular member has content"
    data = file.read(most)
    if len(data) != min(member.size, most):
        raise ContentError(f"truncated: member {name!r} ends early")
    return data


def _read(stream: TarStream, size: int, *, keep: bool) -> bytes:
    """Read so many bytes on, and return them where they are to be kept."""
    parts = []
    while size > 0:
        data = stream.read(min(size, _STEP))
        if not data:
            raise ShardError("changed while it was being read")
        size -= len(data)
        if keep:
            parts.append(data)
    return b"".join(parts)
