"""Files that are no snapshot: each is refused by name, and for what it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.core.errors import IntegrityError, SightlineError
from pipeline.core.local import LocalStore
from pipeline.core.specs import canonical, digest_of
from pipeline.publish.catalog import Catalog
from pipeline.publish.snapshot import FORMAT, Summary, parse_snapshot, snapshot_bytes
from tests.publish.test_compatibility import FIRST

SNAPSHOT = Catalog(LocalStore(str(FIRST))).require_head()


def signed(**update: Any) -> bytes:
    """The file of a snapshot with other fields, whose digest is right."""
    body = {**json.loads(snapshot_bytes(SNAPSHOT)), **update}
    del body["digest"]
    return canonical({**body, "digest": digest_of(body)}) + b"\n"


def test_a_file_signed_as_it_was_is_the_snapshot() -> None:
    assert parse_snapshot(signed(), "x") == SNAPSHOT


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"none", b"3", b"null", b'"text"', b"[]", b'["digest"]', b"{}", b"[" * 100_000],
    ids=["empty", "bytes", "word", "number", "null", "text", "list", "names", "object", "deep"],
)
def test_other_json_and_what_is_none_is_no_snapshot(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^x:? .*is no snapshot"):
        parse_snapshot(data, "x")


@pytest.mark.parametrize(
    "update", [{"version": "two"}, {"more": 1}, {"recipe": {}}, {"recipe": None}, {"format": "two"}], ids=str
)
def test_a_file_of_a_right_digest_and_other_fields_is_malformed(update: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match=r"^x:? .*is malformed"):
        parse_snapshot(signed(**update), "x")


def test_a_newer_format_is_said_to_be_newer_only_where_the_digest_is_right() -> None:
    newer = signed(format=FORMAT + 1, unheard_of=True)
    with pytest.raises(SightlineError, match="upgrade Sightline") as caught:
        parse_snapshot(newer, "x")
    assert not isinstance(caught.value, IntegrityError)
    with pytest.raises(IntegrityError, match="does not match its own digest"):
        parse_snapshot(newer.replace(b"true", b"null"), "x")


def test_equal_json_in_other_bytes_and_values_that_json_cannot_hold_do_not_match_the_digest() -> None:
    data = snapshot_bytes(SNAPSHOT)
    body = json.loads(data)
    spaced = json.dumps(body, sort_keys=True).encode() + b"\n"
    surrogate = data.replace(b'"writer":"', b'"writer":"\\ud800')
    infinite = data.replace(b'"images":7', b'"images":Infinity')
    assert data not in (surrogate, infinite)
    for other in (spaced, data.rstrip(b"\n"), data + b"\n", surrogate, infinite):
        with pytest.raises(IntegrityError, match="does not match its own digest"):
            parse_snapshot(other, "x")


def test_what_an_older_snapshot_does_not_say_counts_nothing() -> None:
    summary = {"set_aside": (), "seconds": {}, "origin": "", "stats": {}}
    counts = ("images", "seen", "rejected", "duplicates", "added", "removed")
    assert Summary().model_dump() == {**dict.fromkeys(counts, 0), **summary}
    body = json.loads(snapshot_bytes(SNAPSHOT))
    later = ("deletions", "operation", "fitness", "recipe_file", "artifacts", "format")
    del body["digest"]
    older = {name: value for name, value in body.items() if name not in later}
    found = parse_snapshot(canonical({**older, "digest": digest_of(older)}) + b"\n", "x")
    assert [getattr(found, name) for name in later] == [None, "index", (), "", (), FORMAT]
