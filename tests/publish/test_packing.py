"""Packs: bounded, cut where the paths say so, and little disturbed by what comes and goes."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.publish.packing import COUNTED, Packer, Packing, Packs, join_url


def packed(paths: list[str], packing: Packing, size: int = 300_000) -> Packs:
    packer = Packer("/src", packing)
    packer.add(
        pa.table({"path": paths, "size": [size] * len(paths), "etag": ["1"] * len(paths), "shard": [""] * len(paths)})
    )
    return packer.finish()


def ids(packs: Packs) -> set[str]:
    return set(packs.ids.to_pylist())


PATHS = sorted(f"d{number % 37}/img{number:06d}.jpg" for number in range(20_000))


@pytest.mark.parametrize(("size", "most"), [(300_000, 5), (10_000_000, 8)], ids=["bounded by files", "by bytes"])
def test_files_that_come_or_go_change_the_packs_they_are_in(size: int, most: int) -> None:
    before = packed(PATHS, Packing(), size)
    assert len(before.ids) > 50
    for now in (["!first.jpg", *PATHS], [f"!{n:03d}.jpg" for n in range(100)] + PATHS, PATHS[1:], PATHS[300:]):
        assert len(ids(packed(now, Packing(), size)) - ids(before)) <= most


@given(st.lists(st.text(alphabet="ab/é.", min_size=1, max_size=6), unique=True, max_size=200), st.integers(1, 40))
def test_packs_are_bounded_and_hold_every_file_once(names: list[str], files: int) -> None:
    paths = sorted(names, key=str.encode)
    packs = packed(paths, Packing(files=files, bytes=files * 100), size=40)
    counts = np.diff(np.concatenate([[0], packs.ends]))
    assert int(counts.sum()) == len(paths)
    assert not len(counts) or (counts.min() >= 1 and counts.max() <= files)


def test_packs_are_as_full_as_they_are_worth() -> None:
    counts = np.diff(np.concatenate([[0], packed(PATHS, Packing()).ends]))
    assert counts.min() >= 256 or counts[-1] == counts.min()
    assert 280 < counts.mean() < 360


def test_few_files_are_counted() -> None:
    paths = [f"{number:02d}" for number in range(10)]
    assert packed(paths, Packing(files=4)).ends.tolist() == [4, 8, 10]
    assert COUNTED > 4


def test_without_packing_every_entry_is_a_shard() -> None:
    packer = Packer("/src", None)
    packer.add(pa.table({"path": ["a.tar", "b.tar"], "size": [1, 2], "etag": ["x", "y"], "shard": ["", ""]}))
    assert packer.finish().ends.tolist() == [1, 2]


def test_an_id_says_what_is_packed_where() -> None:
    one = packed(["a", "b"], Packing())
    assert ids(one) == ids(packed(["a", "b"], Packing(files=7)))
    assert ids(one) != ids(packed(["a", "c"], Packing()))


def columns(paths: list[str], sizes: list[int], reason: str = "") -> pa.Table:
    count = len(paths)
    return pa.table({"path": paths, "size": sizes, "etag": ["1"] * count, "shard": [reason] * count})


@pytest.mark.parametrize(
    ("packing", "pinned"),
    [
        (Packing(), (31, "db8e1b78d1e31eee")),
        (Packing(files=16, bytes=1 << 24), (1094, "aaebc527d87d4d8e")),
        (Packing(files=100, bytes=1 << 23), (1024, "065104aac8198884")),
        (Packing(files=15), (667, "b8fdff2fcdc90cfc")),
        (None, (10_000, "6d2456f00d5802c3")),
    ],
    ids=["defaults", "few files", "bytes", "counted", "containers"],
)
def test_packs_stay_what_they_are(packing: Packing | None, pinned: tuple[int, str]) -> None:
    """Completion records are found by the ids of shards: other packs would be other work."""
    packer = Packer("s3://bucket/images/", packing)
    paths = PATHS[:10_000]
    sizes = [(number * 7919) % 1_000_003 for number in range(len(paths))]
    for start in range(0, len(paths), 3000):
        packer.add(columns(paths[start : start + 3000], sizes[start : start + 3000]))
    packs = packer.finish()
    said = hashlib.sha256("".join(packs.ids.to_pylist()).encode() + packs.ends.tobytes()).hexdigest()
    assert (len(packs.ids), said[:16]) == pinned
    assert packs.ends[-1] == len(paths)


def test_which_pack_each_new_entry_is_in() -> None:
    packs = packed([f"{number:02d}" for number in range(10)], Packing(files=4))
    first, second, third = packs.ids.to_pylist()
    assert packs.names(0, 10).to_pylist() == [first] * 4 + [second] * 4 + [third] * 2
    assert packs.names(3, 5).to_pylist() == [first, second]
    assert packs.names(5, 5).to_pylist() == []


def test_a_pack_of_what_is_extracted_again_has_another_id_in_every_try() -> None:
    def names(reason: str) -> set[str]:
        packer = Packer("/src", Packing())
        packer.add(columns(["a", "b"], [1, 1], reason))
        return ids(packer.finish())

    assert names("") == ids(packed(["a", "b"], Packing(), 1))
    assert len(names("") | names("once") | names("twice")) == 3


@pytest.mark.parametrize(("size", "counts"), [(100, [1, 1, 1]), (50, [2, 1]), (51, [1, 1, 1]), (1000, [1, 1, 1])])
def test_a_pack_is_as_heavy_as_its_bound_at_most_unless_it_is_one_file(size: int, counts: list[int]) -> None:
    packs = packed(["a", "b", "c"], Packing(files=4, bytes=100), size)
    assert np.diff(np.concatenate([[0], packs.ends])).tolist() == counts


def test_where_a_path_lies() -> None:
    assert join_url("/src", "a/b.jpg") == join_url("/src/", "a/b.jpg") == "/src/a/b.jpg"
    assert join_url("s3://bucket/x/all.tar", "all.tar") == "s3://bucket/x/all.tar"
    assert join_url("all.tar", "all.tar") == "all.tar"
    assert join_url("/src/all.tar", "b/all.tar") == "/src/all.tar/b/all.tar"
