"""Tags and expiry marks: what is put is there, what is taken away is not, and a name is never taken twice."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.core.errors import IntegrityError, UserError
from pipeline.core.memory import MemoryStore
from pipeline.publish.marks import delete_tag, expired, mark_expired, put_tag, tags, unmark_expired
from tests.faulty import Watched


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("marks")


def test_a_tag_names_one_version_until_it_is_deleted(store: MemoryStore) -> None:
    put_tag(store, "kept", 3)
    put_tag(store, "v1.0-a_b", 4)
    put_tag(store, "kept", 3)
    assert tags(store) == {"kept": 3, "v1.0-a_b": 4}
    with pytest.raises(UserError, match="tag kept: names snapshot 3"):
        put_tag(store, "kept", 4)
    delete_tag(store, "kept")
    assert tags(store) == {"v1.0-a_b": 4}
    with pytest.raises(UserError, match="tag kept: is not there"):
        delete_tag(store, "kept")
    put_tag(store, "kept", 4)
    assert tags(store)["kept"] == 4


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "-x", "a b", "x" * 101, "é", "a\n"])
def test_a_tag_is_a_name(store: MemoryStore, name: str) -> None:
    with pytest.raises(UserError, match="is no name"):
        put_tag(store, name, 1)
    assert not store.objects
    put_tag(store, "x" * 100, 1)
    assert tags(store) == {"x" * 100: 1}


def test_a_tag_that_vanishes_is_none_and_one_that_is_malformed_is_refused_by_name(store: MemoryStore) -> None:
    put_tag(store, "a", 1)
    put_tag(store, "b", 2)

    def vanishing(kind: str, name: str, carry_out: Any) -> Any:
        if kind == "read" and name == "tags/a.json":
            store.delete(name)
        return carry_out()

    assert tags(Watched(store, vanishing)) == {"b": 2}
    store.write("tags/b.json", b"{}")
    with pytest.raises(IntegrityError, match=r"tags/b.json: is malformed"):
        tags(store)


def test_a_version_is_given_up_until_its_mark_is_taken_back(store: MemoryStore) -> None:
    for version in (1, 2, 123_456_789):
        mark_expired(store, version)
    store.write("expired/README", b"no mark")
    assert expired(store) == {1, 2, 123_456_789}
    unmark_expired(store, 2)
    unmark_expired(store, 2)
    assert expired(store) == {1, 123_456_789}
    assert store.exists("expired/00000001.json"), "names sort as versions do"
