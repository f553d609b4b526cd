"""Compressed streams: which compression a file has, by its first bytes, and its content as a stream of bounded size.

Several streams one after the other are one, as gzip and its like have it; zeros after them are padding. Anything else
after them, and a stream that breaks off, is a ContentError. Memory is a few blocks, and the window of the compression.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

import pyarrow as pa

from pipeline.core.errors import ContentError, of_reading

HEAD = 16
"""First bytes of a file that `codec_of` looks at."""
MOST_BYTES = 1 << 40
RATIO = 200
"""Times its compressed size that a file may unpack to, beyond FREE_BYTES: photographs hardly compress."""
FREE_BYTES = 1 << 30
_CHUNK = 1 << 18
_WINDOW = 512 << 20
"""Memory that xz data may ask for; `xz -9` takes 64 MiB."""
_OTHERS = {b"PK\x03\x04": "zip", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar", b"\x1f\x9d": "compress (.Z)"}


class _Engine(Protocol):
    """What the decompressors of the standard library have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the face of the others; it checks CRC and length."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max(0, max_length))


_ENGINES: dict[str, Callable[[], _Engine]] = {
    "gzip": _Gzip,
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_WINDOW),
}


def codec_of(head: bytes) -> str:
    """Return "gzip", "bz2", "xz", "zstd" or "lz4" by a file's first HEAD bytes; "" for anything else.

    ContentError for archives of other formats, which names them.
    """
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise ContentError(f"is {name} data, which is not read; write it as .tar")
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    # A name in a tar may begin with "BZh": what follows it decides.
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bz2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd"
    return "lz4" if head.startswith(b"\x04\x22\x4d\x18") else ""


def most_bytes(size: int) -> int:
    """Return how many bytes a compressed file of `size` bytes may unpack to."""
    return min(MOST_BYTES, max(FREE_BYTES, RATIO * size))


def too_much(size: int) -> ContentError:
    """Return the error for a compressed file of `size` bytes that unpacks to more than `most_bytes`."""
    return ContentError(f"unpacks to more than {most_bytes(size)} bytes from {size}; unpack it and index the .tar")


class Decompressed(io.RawIOBase):
    """The content of a compressed file, to be read on and on. size: of the compressed file; most: of its content."""

    def __init__(self, raw: BinaryIO, codec: str, size: int, *, most: int | None = None) -> None:
        super().__init__()
        self._size, self._left = size, most_bytes(size) if most is None else most
        self._read = _Arrow(raw, codec).read if codec in ("zstd", "lz4") else _Chained(raw, codec).read

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; b"" at the end only. ContentError when the data is damaged, or too much."""
        data = self._read(size if size >= 0 else _CHUNK)
        self._left -= len(data)
        if self._left < 0:
            raise too_much(self._size)
        return data


class _Chained:
    """Streams of the standard library's kinds, one after the other."""

    def __init__(self, raw: BinaryIO, codec: str) -> None:
        self._raw, self._codec = raw, codec
        self._engine, self._pending = _ENGINES[codec](), b""

    def read(self, size: int) -> bytes:
        while True:
            if self._engine.eof and not self._next():
                return b""
            data, self._pending = self._pending, b""
            if not data and self._engine.needs_input:
                data = self._raw.read(_CHUNK)
                if not data:
                    raise ContentError(f"truncated: its {self._codec} data breaks off")
            try:
                out = self._engine.decompress(data, size)
            except (zlib.error, lzma.LZMAError, EOFError, ValueError, OSError) as error:
                raise ContentError(f"is no sound {self._codec} data ({' '.join(str(error).split())})") from None
            if out:
                return out

    def _next(self) -> bool:
        """Go on to the next stream; False when nothing but zeros follows."""
        rest = self._engine.unused_data
        while True:
            self._pending = rest.lstrip(b"\0")
            if self._pending:
                self._engine = _ENGINES[self._codec]()
                return True
            rest = self._raw.read(_CHUNK)
            if not rest:
                return False


class _Arrow:
    """Streams that Arrow decompresses."""

    def __init__(self, raw: BinaryIO, codec: str) -> None:
        self._codec = codec
        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._stream.read(size))
        except (pa.ArrowException, OSError) as error:
            if of_reading(error):
                raise
            raise ContentError(f"is no sound {self._codec} data ({' '.join(str(error).split())[:160]})") from None
