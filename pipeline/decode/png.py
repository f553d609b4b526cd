"""PNG chunks: a file without its texts, for pictures whose texts are larger than Pillow reads.

Image generators write prompts and workflows of megabytes into text chunks, scanners profiles. None of it is pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Texts that may say how the picture is to be turned."""
MOST_TEXT = 1 << 20
"""A text that is kept has at most so many bytes, decompressed; Pillow's own bound."""
MOST_PROFILE = 8 << 20


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of each chunk of a PNG, its length and checksum included, as far as they go."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], start, min(end, len(data))
        start = end


def without_texts(data: bytes) -> tuple[bytes, bytes]:
    """Return the PNG without texts and profile, but for small texts that say its orientation; and the profile."""
    kept, profile = [SIGNATURE], b""
    for kind, start, end in chunks(data):
        body = data[start + 8 : end - 4]
        if kind == b"iCCP":
            profile = _decompressed(body.partition(b"\0")[2][1:], MOST_PROFILE)
        elif kind not in TEXTS or _orientation(kind, body):
            kept.append(data[start:end])
    return b"".join(kept), profile


def _orientation(kind: bytes, body: bytes) -> bool:
    keyword, _, rest = body.partition(b"\0")
    if keyword not in ORIENTATION or len(body) > MOST_TEXT:
        return False
    if kind == b"zTXt":
        return bool(_decompressed(rest[1:], MOST_TEXT))
    if kind == b"iTXt" and rest[:1] == b"\1":
        return bool(_decompressed(rest[2:].split(b"\0", 2)[-1], MOST_TEXT))
    return True


def _decompressed(data: bytes, most: int) -> bytes:
    """Return what was compressed; nothing when that is broken, or more than `most` bytes."""
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, most)
    except zlib.error:
        return b""
    return b"" if inflater.unconsumed_tail else plain
