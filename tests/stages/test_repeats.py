"""Of equal keys one image counts, and what is recorded of the others is true."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.core.types import Image, Reject
from pipeline.stages.describe import Described
from tests.stages.test_describe import Toy, describer, values


def images(*pairs: tuple[str, str]) -> list[Image | Reject]:
    return [Image(key=key, uri=f"u/{n}", data=text.encode()) for n, (key, text) in enumerate(pairs)]


def fates(found: Described) -> Counter[tuple[str, str]]:
    return Counter((reject.status, reject.reason) for reject in found.rejects)


REPEATED = (("a", "8 8 1"), ("b", "8 8 2"), ("a", "8 8 3"), ("a", "8 8 1"))


def test_where_the_first_counts_others_are_not_described() -> None:
    toy = Toy()
    found = describer(toy)(images(*REPEATED))
    assert (values(found), [row.uri for row in found.images]) == ([1.0, 2.0], ["u/0", "u/1"])
    assert len(toy.decoded) == 2
    assert fates(found) == {
        ("rejected", "an earlier image of the shard has the same key"): 1,
        ("duplicate", "another image of the shard has the same key"): 1,
    }


def test_where_the_last_counts_it_is_indexed() -> None:
    found = describer(Toy())(images(*REPEATED, ("b", "8 8 2")), last_counts=True)
    assert (values(found), [row.uri for row in found.images]) == ([1.0, 2.0], ["u/3", "u/4"])
    assert fates(found) == {
        ("rejected", "a later member has the same name"): 1,
        ("duplicate", "a later member has the same name and the same bytes"): 2,
    }


@pytest.mark.parametrize("last", [False, True])
def test_every_image_has_one_fate(last: bool) -> None:
    pairs = (("a", "8 8 -1"), ("a", "8 8 1"), ("b", "8 8 2"), ("b", "8 8 -1"), ("c", "8 8 3"), ("c", "8 8 3"))
    found = describer(Toy())(images(*pairs), last_counts=last)
    assert len(found.images) + len(found.rejects) == len(pairs)
    assert [row.key for row in found.images] == (["a", "c"] if last else ["b", "c"])
    assert sum(reject.status == "duplicate" for reject in found.rejects) == 1
    assert ("rejected", "negative") in fates(found)


@pytest.mark.parametrize("last", [False, True])
def test_what_is_skipped_is_counted_and_not_recorded(last: bool) -> None:
    one = describer(Toy())
    skipped = [Reject(key=f"{n}", uri="u", reason=".heic", bytes=1, status="skipped") for n in range(3)]
    found = one([*images(("a", "8 8 1")), *skipped], last_counts=last)
    assert (values(found), found.rejects) == ([1.0], [])
    assert one._stats.take()["skipped .heic"] == 3
