"""Packs: bounded, cut where the paths say so, and little disturbed by what comes and goes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.publish.packing import COUNTED, Packer, Packing, Packs


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
