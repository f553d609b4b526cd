"""Tags and expiry marks: small objects beside the snapshots that say which are kept for good and which are given up.

Whoever wants to use an old snapshot first holds a lease on it and then looks for its mark; who gives it up first puts
the mark and then looks for leases. So one of the two always sees the other.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pydantic import ValidationError

from pipeline.core.errors import ExistsError, IntegrityError, NotFoundError, UserError
from pipeline.core.specs import canonical, explain
from pipeline.core.storage import Store
from pipeline.core.types import Record

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Tag(Record):
    """Content of a tag."""

    version: int


def tags(store: Store) -> dict[str, int]:
    """Return tag -> version."""
    found = {}
    for entry in store.list("tags"):
        try:
            tag = Tag.model_validate_json(store.read(entry.path))
        except NotFoundError:
            continue
        except ValidationError as error:
            raise IntegrityError(entry.path, f"is malformed ({explain(error)})") from None
        found[PurePosixPath(entry.path).stem] = tag.version
    return found


def put_tag(store: Store, name: str, version: int) -> None:
    """Name a version for good; a UserError when the name is taken by another one, or is no name."""
    if not _NAME.fullmatch(name):
        raise UserError(f"tag {name!r}", "is no name", "use letters, digits, dots, hyphens and underscores")
    try:
        store.put_if_absent(_tag(name), canonical({"version": version}))
    except ExistsError:
        known = tags(store).get(name)
        if known != version:
            raise UserError(f"tag {name}", f"names snapshot {known}", "delete it, or choose another") from None


def delete_tag(store: Store, name: str) -> None:
    """Take a name away; a UserError when there is none."""
    if name not in tags(store):
        raise UserError(f"tag {name}", "is not there", "see `sightline status`")
    store.delete(_tag(name))


def _tag(name: str) -> str:
    return f"tags/{name}.json"


def expired(store: Store) -> set[int]:
    """Return the versions whose data are gone or going."""
    stems = (PurePosixPath(entry.path).stem for entry in store.list("expired"))
    return {int(stem) for stem in stems if stem.isdigit()}


def mark_expired(store: Store, version: int) -> None:
    """Give a version up."""
    store.write(_mark(version), canonical({"version": version}))


def unmark_expired(store: Store, version: int) -> None:
    """Take back a mark that met a lease or a tag; only for a version of which nothing has been collected."""
    store.delete(_mark(version))


def _mark(version: int) -> str:
    return f"expired/{version:08d}.json"
