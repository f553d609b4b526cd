"""Snapshot: the whole truth of one publication, and its bytes. Values and JSON only; committing is in catalog.py.

The file is the canonical JSON of the snapshot with its own digest inside: reading computes it anew and compares every
byte, so no change to a snapshot goes unnoticed.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field, ValidationError

from pipeline.core.errors import IntegrityError, SightlineError
from pipeline.core.specs import canonical, digest_of, explain
from pipeline.core.types import Artifact, Record
from pipeline.publish.recipe import Recipe

FORMAT = 1


class Health(Record):
    """How well a trained index fits what it holds, from a seeded sample; see pipeline/stages/drift.py.

    trained: digest of the trained index. rows: live vectors at that time. values: measure -> value.
    """

    trained: str
    rows: int
    values: dict[str, float]


class Fitness(Record):
    """Health of one index kind when it was trained and now, and in words what has drifted past its threshold."""

    kind: str
    trained: Health
    now: Health
    drifted: tuple[str, ...] = ()


class Summary(Record):
    """Counts of the collection as published, and of the run that published it. Times are seconds."""

    images: int = 0
    seen: int = 0
    rejected: int = 0
    duplicates: int = 0
    added: int = 0
    removed: int = 0
    set_aside: tuple[str, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)
    origin: str = ""
    stats: dict[str, float] = Field(default_factory=dict)


class Snapshot(Record):
    """One publication. The lists are Parquet manifests, named by digest (see manifests.py and listing.py).

    operation: what made it: index, delete, restore, compact, rollback or repair. recipe_file: digest of the recipe file
    that states the recipe, "" for none. Fields with defaults came after format 1.
    """

    format: int = FORMAT
    version: int
    parent: int | None
    writer: str
    created_at: str
    source: str
    recipe: Recipe
    listing: Artifact
    descriptors: Artifact
    indexes: Artifact
    tombstones: Artifact
    artifacts: tuple[Artifact, ...] = ()
    summary: Summary
    deletions: Artifact | None = None
    operation: str = "index"
    fitness: tuple[Fitness, ...] = ()
    recipe_file: str = ""


def snapshot_bytes(snapshot: Snapshot) -> bytes:
    """Return the bytes of the snapshot's file."""
    body = snapshot.model_dump(mode="json")
    return canonical({**body, "digest": digest_of(body)}) + b"\n"


def parse_snapshot(data: bytes, name: str) -> Snapshot:
    """Read a snapshot's file; IntegrityError on any change, a plain refusal of a newer format."""
    try:
        body: dict[str, Any] = json.loads(data)
        stated = body.pop("digest")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise IntegrityError(name, "is no snapshot") from None
    if isinstance(body.get("format"), int) and body["format"] > FORMAT and digest_of(body) == stated:
        raise SightlineError(
            f"{name}: format {body['format']} is newer than this release reads ({FORMAT}); upgrade Sightline"
        )
    try:
        if digest_of(body) != stated or canonical({**body, "digest": stated}) + b"\n" != data:
            raise IntegrityError(name, "does not match its own digest")
        return Snapshot.model_validate(body)
    except ValidationError as error:
        raise IntegrityError(name, f"is malformed ({explain(error)})") from None
    except (ValueError, UnicodeEncodeError):
        raise IntegrityError(name, "does not match its own digest") from None
