"""Locations and names: which URLs may be opened, how they are shown, and which names lie inside a store."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import StoreError, UserError

SCHEMES = ("file", "s3")
_WINDOWS_DRIVE = re.compile(r"^[A-Za-z]:[\\/]")


def split_scheme(location: str) -> tuple[str, str]:
    """Return (scheme, path) of an allowed location, without query or user information."""
    shown = public_url(location)
    if "::" in location:
        raise UserError(shown, "chained URLs are not opened", "name the object itself")
    if "://" not in location or _WINDOWS_DRIVE.match(location):
        return "file", location
    parts = urlsplit(location)
    if parts.scheme not in SCHEMES:
        raise UserError(shown, f"scheme {parts.scheme!r} is not allowed", f"use a local path or {SCHEMES[1]}://")
    if parts.scheme == "file":
        return "file", unquote(parts.path)
    bucket = parts.netloc.rpartition("@")[2]
    if not bucket:
        raise UserError(shown, "names no bucket", "write s3://bucket/prefix")
    return "s3", f"{bucket}{location.partition(parts.netloc)[2].partition('?')[0]}".rstrip("/")


def public_url(location: str) -> str:
    """Return a location fit for messages: no user information, no query (presigned URLs carry secrets there)."""
    if "://" not in location:
        return location
    scheme, _, rest = location.partition("://")
    netloc, slash, path = rest.partition("/")
    return f"{scheme}://{netloc.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def checked_name(name: str) -> str:
    """Return a name unless it would leave the store; StoreError then."""
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\0" in name:
        raise StoreError(f"{name!r}: not a name inside the store")
    return name
