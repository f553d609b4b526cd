"""Locations and names: which URLs may be opened, how they are shown, and which names lie inside a store.

A location is a local path, file://, or s3://bucket/prefix, which may say where its server is and whose credentials to
use: s3://bucket/prefix?endpoint=URL&profile=NAME&region=NAME&anonymous=true. It never holds credentials itself.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pipeline.core.errors import StoreError, UserError

SCHEMES = ("file", "s3", "memory")
RANDOM_WEIGHTS = "random:"
"""Weights of this name, followed by a seed, are made up: for trials and tests."""
S3_OPTIONS = ("endpoint", "profile", "region", "anonymous")
_WINDOWS_DRIVE = re.compile(r"^[A-Za-z]:[\\/]")


@dataclass(frozen=True, kw_only=True)
class Location:
    """A location taken apart; options are in a fixed order."""

    scheme: str
    path: str
    options: tuple[tuple[str, str], ...] = ()


def parse_location(location: str) -> Location:
    """Return an allowed location's parts; a UserError for chained URLs, other schemes, credentials, unknown options."""
    shown = public_url(location)
    if "::" in location:
        raise UserError(shown, "chained URLs are not opened", "name the object itself")
    if "://" not in location or _WINDOWS_DRIVE.match(location):
        return Location(scheme="file", path=location)
    parts = urlsplit(location)
    if parts.scheme not in SCHEMES:
        raise UserError(shown, f"scheme {parts.scheme!r} is not allowed", f"use a local path or {SCHEMES[1]}://")
    if parts.scheme == "file":
        return Location(scheme="file", path=unquote(parts.path))
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
        # Locations are recorded with their options: what could carry a secret stays out.
        if name == "endpoint" and (urlsplit(value).scheme not in ("http", "https") or set("@?#") & set(value)):
            raise UserError(
                shown, "has an endpoint that is no http(s) URL without credentials", "write http://host:port"
            )
    return tuple(sorted(found.items()))


def public_url(location: str) -> str:
    """Return a location fit for messages: no user information, no query (presigned URLs carry secrets there)."""
    if "://" not in location:
        return location
    scheme, _, rest = location.partition("://")
    netloc, slash, path = rest.partition("/")
    return f"{scheme}://{netloc.rpartition('@')[2].partition('?')[0]}{slash}{path.partition('?')[0]}"


def absolute_location(location: str) -> str:
    """Return a location that means the same in every folder, fit to be recorded: local paths in full, options kept."""
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

    def place(location: str) -> tuple[str, str]:
        parsed = parse_location(location)
        return parsed.scheme, os.path.realpath(parsed.path) if parsed.scheme == "file" else parsed.path

    return place(one) == place(other)


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
    return f"{parent}{mark}{query}", name


def checked_name(name: str) -> str:
    """Return a name unless it would leave the store; StoreError then."""
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\0" in name:
        raise StoreError(f"{name!r}: not a name inside the store")
    return name
