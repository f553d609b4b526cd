"""Text files of users: UTF-8 with or without a byte order mark. Other encodings are refused in one line."""

from __future__ import annotations

import codecs

from pipeline.core.errors import UserError

_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_LOOK = 4096


def decoded(data: bytes, subject: str, *, other_bytes: bool = False) -> str:
    """Return the text of a file without its byte order mark; UserError naming the file when it is not UTF-8.

    other_bytes: keep bytes that are not UTF-8 as surrogates, for names of local files. UTF-16 is recognised by its
    mark, or by NUL bytes: in Western text every other byte is one.
    """
    if data.startswith(_WIDE) or 4 * data.count(b"\0", 0, _LOOK) > min(len(data), _LOOK):
        raise UserError(subject, "is UTF-16 text", "save it as UTF-8")
    if b"\0" in data:
        raise UserError(subject, "holds NUL bytes", "save it as UTF-8 text")
    try:
        return data.decode("utf-8-sig", "surrogateescape" if other_bytes else "strict")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(subject, f"is not UTF-8 text (line {line})", "save it as UTF-8") from None
