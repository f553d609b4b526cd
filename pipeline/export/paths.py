"""Keys as paths inside a file or a folder. What a path cannot hold is percent-escaped, all else stays as it is.

A key that a path can hold is its own name, so that others find the image by it. No two keys share a name: a "%" that
would be taken for an escape of ours is escaped too. The table of names says which key a name stands for.
"""

from __future__ import annotations

import re

_CODES = "25|2[CEF]|5[CF]|[01][0-9A-F]|7F"
"""What may follow a "%" of ours: the codes of % , . / \\ _ and of control characters."""
_ALWAYS = (
    r"^/|(?<=/)/|/\Z",  # an empty part: paths drop it
    r"(?<![^/])\.{1,2}(?![^/])",  # a part that is . or ..: the folder itself, or the one above
    r"[\x00-\x1f\x7f]",  # a NUL ends a name, a line break a line
    f"%(?={_CODES})",
)


def escapes(*more: str) -> re.Pattern[str]:
    """Return the pattern of what a form escapes: what no path holds, and more; that is one of % , . / \\ _ each."""
    return re.compile("|".join((*_ALWAYS, *more)))


def path_of(key: str, pattern: re.Pattern[str]) -> str:
    """Return the name of a key: a relative path without empty, "." or ".." parts."""
    return pattern.sub(_escaped, key)


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"%{ord(character):02X}" for character in found[0])
