"""The bytes of a tar archive as they come: decompressed where they are compressed, counted, and judged at the end.

An archive counts as whole only if its two zero blocks are there, nothing but zeros follows them, and as many bytes came
as the listing promised. Some programs leave the zero blocks out, and their archives are refused, too: one that was cut
between two members looks just like them, and images would be lost without a word.
"""

from __future__ import annotations

import io
import tarfile
from typing import BinaryIO

from pipeline.core.errors import ContentError, ShardError
from pipeline.core.ranges import read_at
from pipeline.sources._compressed import HEAD, Decompressed, codec_of, most_bytes, too_much

SUFFIX = ".tar"
COMPRESSED = (
    *(".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.lz4"),
)
"""Suffixes of compressed archives; one that is named .tar is read just so."""
BUFFER = 1 << 16
_BLOCK = 512
_LONGEST_HEADER = 1 << 20
"""Bytes of an extended header that are read: a name, and a few attributes."""
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class Header(tarfile.TarInfo):
    """A header; extended ones, which tarfile reads into memory whole, are bounded."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"an extended header of {self.size} bytes")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # typeshed leaves it out
        return member


BROKEN = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)
"""What tarfile raises for archives that are not sound."""


def unsound(error: Exception) -> ContentError:
    """Return the error for one of BROKEN."""
    return ContentError(f"is no sound tar archive ({' '.join(str(error).split())})")


def compression(file: BinaryIO) -> str:
    """Return the compression of an archive, "" for none; the file stands at its beginning afterwards."""
    codec = codec_of(read_at(file, 0, HEAD))
    file.seek(0)
    return codec


class TarStream(io.RawIOBase):
    """What tarfile reads an archive from; remembers how far it got and its last bytes. size: of the file, as listed."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__()
        self._file, self._size = file, size
        self.codec = compression(file)
        self._raw = Decompressed(file, self.codec, size) if self.codec else file
        self._count = 0
        self._tail = b""

    def expect_within(self, offset: int, name: str) -> None:
        """Raise ContentError when a member promises bytes up to `offset`, and there cannot be so many."""
        if self.codec and offset > most_bytes(self._size):
            raise too_much(self._size)
        if not self.codec and offset > self._size:
            raise ContentError(f"truncated: member {name!r} reaches beyond the end")

    def read(self, size: int = -1, /) -> bytes:
        """Read on, remembering."""
        data = self._raw.read(size)
        self._count += len(data)
        self._tail = (self._tail + data)[-2 * BUFFER :]
        return data

    def expect_end(self, offset: int) -> None:
        """Raise ContentError unless two zero blocks stand at `offset` and only zeros follow, up to the end."""
        while self._count < offset + 2 * _BLOCK and self.read(BUFFER):
            pass
        # tarfile reads less than one buffer beyond the header it stopped at, so the tail reaches back to it.
        start = self._count - len(self._tail)
        assert start <= offset, "the tail holds the end of the archive"
        end = self._tail[offset - start :]
        if self._count < offset + 2 * _BLOCK:
            raise ContentError(f"truncated: {self._count} bytes, and no end-of-archive blocks; write it again with tar")
        if any(end[: 2 * _BLOCK]):
            raise ContentError(f"is no sound tar archive (bad header at byte {offset})")
        rest = end
        while rest:
            if any(rest):
                raise ContentError("holds data after its end (concatenated archives?); write it as one archive")
            rest = self.read(BUFFER)
        count = self._file.tell() if self.codec else self._count
        if count != self._size:
            raise ShardError(f"has {count} bytes where {self._size} were listed")
