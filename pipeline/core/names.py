"""Locations and names: which URLs may be opened, how they are shown, and which names lie inside a store.

A location is a local path, file://, or s3://bucket/prefix, which may say where its server is and whose credentials to
use, and who pays: s3://bucket/prefix?endpoint=URL&profile=NAME&region=NAME&anonymous=true&requester_pays=true. It never
holds credentials itself.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pipeline.core.errors import StoreError, UserError

SCHEMES = ("file", "s3", "memory")
RANDOM_WEIGHTS = "random:"
"""Weights of this name, followed by a seed, are made up: for trials and tests."""
S3_OPTIONS = ("endpoint", "profile", "region", "anonymous", "requester_pays")
_SWITCHES = ("anonymous", "requester_pays")
_URL = re.compile(r"(?i)^[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://")
_CHAIN = re.compile(r"::[^/]*://|^[^/]*::[^/]*://")
"""One URL inside another, as fsspec chains them."""
_LONGEST = 200
"""Bytes; file systems allow 255 in a file name."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """A location taken apart; options are in a fixed order."""

    scheme: str
    path: str
    options: tuple[tuple[str, str], ...] = ()


def parse_location(location: str) -> Location:
    """Return an allowed location's parts; a UserError for chained URLs, other schemes, credentials, unknown options."""
    shown = public_url(location)
    if "\0" in location:
        raise UserError(shown.replace("\0", "\\0"), "holds a NUL character", "correct the location")
    if not _URL.match(location):
        return Location(scheme="file", path=local_path(location))
    if _CHAIN.search(location):
        raise UserError(shown, "chained URLs are not opened", "name the object itself")
    parts = urlsplit(location)
    if parts.scheme not in SCHEMES:
        raise UserError(shown, f"scheme {parts.scheme!r} is not allowed", f"use a local path or {SCHEMES[1]}://")
    if parts.scheme == "file":
        return Location(scheme="file", path=local_path(unquote(parts.path)))
    if "@" in parts.netloc:
        raise UserError(shown, "holds credentials", "name a profile (?profile=NAME) or set the AWS variables instead")
    if not parts.netloc:
        raise UserError(shown, "names no bucket", f"write {parts.scheme}://bucket/prefix")
    path, _, query = location.partition("://")[2].partition("?")
    return Location(scheme=parts.scheme, path=path.rstrip("/"), options=_options(query, shown))


def _options(query: str, shown: str) -> tuple[tuple[str, str], ...]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in found.items():
        # Neither name nor value is repeated: a presigned URL carries its secret here.
        if name not in S3_OPTIONS:
            raise UserError(shown, "has an option that is not known", f"options are {', '.join(S3_OPTIONS)}")
        if name in _SWITCHES and value not in ("true", "false"):
            raise UserError(shown, f"has an option {name} that is neither true nor false", f"write {name}=true")
        # Locations are recorded with their options: what could carry a secret stays out.
        if name == "endpoint" and (urlsplit(value).scheme not in ("http", "https") or set("@?#") & set(value)):
            raise UserError(
                shown, "has an endpoint that is no http(s) URL without credentials", "write http://host:port"
            )
    return tuple(sorted(found.items()))


def public_url(location: str) -> str:
    """Return a location fit for messages: no user information, no query (presigned URLs carry secrets there)."""
    if "://" not in location:
        return shown_path(location)
    scheme, _, rest = location.partition("://")
    netloc, slash, path = rest.partition("/")
    return f"{scheme}://{netloc.rpartition('@')[2].partition('?')[0]}{slash}{path.partition('?')[0]}"


def absolute_location(location: str) -> str:
    """Return a location that means the same in every folder, fit to be recorded: local paths in full, options kept."""
    return shown_path(full_location(location))


def full_location(location: str) -> str:
    """Return the same to be opened: bytes of a local path that are not UTF-8 stay as Python has them."""
    parsed = parse_location(location)
    if parsed.scheme == "file":
        full = str(Path(parsed.path).absolute())
        plain = os.path.normpath(full)
        # Behind a link, ".." leads elsewhere than the text says.
        return plain if os.path.realpath(plain) == os.path.realpath(full) else full
    query = urlencode(parsed.options, safe=":/")
    return f"{parsed.scheme}://{parsed.path}" + (f"?{query}" if query else "")


def same_place(one: str, other: str) -> bool:
    """Tell whether two locations are one place: links are followed. How a service is reached makes no difference."""
    return place(one) == place(other)


def place(location: str) -> str:
    """Return what two locations of one place have in common, see `same_place`."""
    parsed = parse_location(location)
    return f"{parsed.scheme}://{os.path.realpath(parsed.path) if parsed.scheme == 'file' else parsed.path}"


def join_location(location: str, name: str) -> str:
    """Return the location of a name beneath a folder, with the folder's options."""
    if "://" not in location:
        return f"{location.rstrip('/')}/{name}"
    base, mark, query = location.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def parent_location(location: str) -> tuple[str, str]:
    """Return (location of the parent folder, name) of a single object; the folder is "" for a bucket."""
    base, mark, query = location.partition("?") if "://" in location else (location, "", "")
    parent, _, name = base.rpartition("/")
    if parent.endswith(":/"):
        return "", name
    # A key may have empty parts, which a folder's location cannot end with.
    whole, parent = base, parent.rstrip("/")
    name = whole[len(parent) + 1 :]
    return f"{parent}{mark}{query}", name


_ESCAPE = re.compile(r"\\x(5c|[89a-f][0-9a-f])")


def escaped(raw: str) -> str:
    """Return a file name, as Python has it, fit to be a name in a store: UTF-8, and different for each file name.

    Bytes that are not UTF-8 become "\\xe9" and the like, a backslash that would read as the beginning of one "\\x5c".
    """
    if "\\" in raw:
        raw = _ESCAPE.sub(r"\\x5cx\1", raw)
    return raw if raw.isascii() else raw.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def unescaped(name: str) -> str:
    """Return the file name of which `escaped` makes a name."""
    if "\\" not in name:
        return name
    raw = b""
    for place, part in enumerate(_ESCAPE.split(name)):
        raw += bytes([int(part, 16)]) if place % 2 else part.encode("utf-8", "surrogateescape")
    return os.fsdecode(raw)


def shown_path(path: str) -> str:
    """Return a local path as text that can be recorded: bytes that are not UTF-8 as escapes."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def local_path(text: str) -> str:
    """Return the path that a text names: itself, or when only that exists, one of which `shown_path` makes the text."""
    other = unescaped(text)
    return other if other != text and not os.path.lexists(text) and os.path.lexists(other) else text


def checked_name(name: str) -> str:
    """Return a name unless it would leave a local folder; StoreError then."""
    if name.startswith("/") or ".." in name.split("/"):
        raise StoreError(f"{name!r}: not a name inside the store")
    return checked_key(name)


def checked_key(name: str) -> str:
    """Return a name in a store without folders, where "/" and ".." are letters as others; StoreError for no name."""
    if not name or "\0" in name:
        raise StoreError(f"{name!r}: not a name inside the store")
    return name


def flat_name(name: str) -> str:
    """Return the name of a file, in one folder, for an object of any name."""
    flat = name.replace("/", "_")
    if flat.strip(".") and len(flat.encode()) <= _LONGEST:
        return flat
    return f"{hashlib.sha256(name.encode()).hexdigest()[:16]}{PurePosixPath(flat).suffix[:16]}"
