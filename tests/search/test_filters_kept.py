"""What filters keep for the next query: read once, by one thread, within bounds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.core.types import Floats
from pipeline.search import filters as module
from pipeline.search.descriptors import StoredDescriptors
from pipeline.search.filters import ENTRIES, KEEP, OVERHEAD, Filters, Matches, _Recent
from pipeline.search.merge import Candidates

ROWS, DIM = 3000, 16
LICENSES = ("cc0", "by", "nc", None)
SETTINGS = {"binary": 'code = "lsh"\nnbits = 256\n'}
METADATA = 'metadata = { license = "string", year = "int64" }'
WIDE = "year >= 1000 and year < 2500"
"""Half of the images; `few = 0` leaves even a handful of matches to the index."""
CONDITIONS = (WIDE, "license = 'cc0'", "license is null and year < 100", "year in (7, 8, 2999)", "not (license = 'by')")


class Counting(StoredDescriptors):
    """Four images a file, whose year is the file's number; counts what is read."""

    def __init__(self, files: int) -> None:
        self.dim, self.counts = 2, [4] * files
        self.reads = self.vectors_read = self.most_at_once = 0

    def columns(self, number: int, names: Any) -> pa.Table:
        assert list(names) == ["year"]
        self.reads += 1
        return pa.table({"year": [number, number, None, number]})

    def vectors(self, file: Any, row: Any) -> Floats:
        self.vectors_read += len(file)
        self.most_at_once = max(self.most_at_once, len(file))
        return np.stack([file, row], axis=1).astype(np.float32)


def test_what_a_condition_takes_is_read_once() -> None:
    stored = Counting(50)
    names = pa.array([f"f{number}" for number in range(50)])
    filters = Filters(stored, names, {"f3": np.array([0]), "f9": np.array([1])}, {"year": "int64"})
    first = filters.matches("year < 5")
    assert (first.count, stored.reads) == (14, 50)
    assert [len(first.hidden[f"f{number}"]) for number in (0, 4, 5)] == [1, 1, 4]
    assert filters.matches("year < 5") is first
    assert stored.reads == 50
    query = np.array([[1.0, 0.1]], np.float32)
    for _ in range(3):
        (best,) = filters.exact(first, query, 3)
        assert list(zip(best.file.tolist(), best.row.tolist(), strict=True)) == [(4, 3), (4, 1), (4, 0)]
    assert stored.vectors_read == 14
    assert isinstance(best, Candidates)
    filters.matches("year < 6")
    assert stored.reads == 100


def test_threads_that_ask_the_same_wait_for_one_reading() -> None:
    stored = Counting(300)
    filters = Filters(stored, pa.array([f"f{n}" for n in range(300)]), {}, {"year": "int64"})
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(filters.matches, ["year < 5"] * 8))
    assert stored.reads == 300
    assert all(one is found[0] for one in found)


def test_what_is_kept_of_conditions_is_bounded() -> None:
    stored = Counting(50)
    filters = Filters(stored, pa.array([f"f{n}" for n in range(50)]), {}, {"year": "int64"}, keep=40_000)
    for number in range(10):
        filters.matches(f"year < {number}")
    assert stored.reads == 500
    filters.matches("year < 9")
    assert stored.reads == 500, "the latest are kept"
    filters.matches("year < 0")
    assert stored.reads == 550, "the first was given up"


def test_what_was_asked_leaves_no_lock_behind() -> None:
    recent = _Recent[int](1 << 20, lambda _: 0)

    def fails() -> int:
        raise UserError("x", "y", "z")

    for name in map(str, range(100)):
        with pytest.raises(UserError):
            recent.get(name, fails)
        assert [recent.get(name, lambda: 1) for _ in range(2)] == [1, 1]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: recent.get(f"new {number % 10}", lambda: 1), range(400)))
    assert recent._making == {}


def test_names_and_places_are_weighed_and_entries_are_counted() -> None:
    stored = Counting(1)
    filters = Filters(stored, pa.array(["f0"]), {}, {"year": "int64"}, keep=100_000)
    for number in range(100):
        where = f"year < 0 and {'1 = 1 and ' * 100}year < {number}"
        assert not len(filters.exact(filters.matches(where), np.zeros((1, 2), np.float32), 1)[0])
        assert filters.held <= 100_000
    kept = [*filters._matches._kept, *filters._compared._kept]
    assert sum(4 * len(name) + OVERHEAD for name in kept) <= filters.held
    recent = _Recent[int](1 << 40, lambda _: 0)
    for number in range(3 * ENTRIES):
        recent.get(str(number), lambda: 1)
    assert len(recent._kept) == ENTRIES
    assert recent.held == sum(OVERHEAD + 4 * len(name) for name in recent._kept)
    few = Filters(Counting(50), pa.array([f"f{n}" for n in range(50)]), {}, {"year": "int64"})
    found = few.matches("year < 40")
    before = few.held
    few.exact(found, np.zeros((1, 2), np.float32), 1)
    assert few.held - before >= 120 * (8 + 4 + 8 + 8), "vectors, scores, files and rows of 120 images"


def test_one_constant_bounds_what_all_filters_of_an_index_keep() -> None:
    filters = Filters(Counting(1), pa.array(["f0"]), {}, {"year": "int64"})
    assert filters._matches._limit + filters._compared._limit == KEEP


def test_more_than_is_read_at_once_is_compared_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    names = pa.array([f"f{number}" for number in range(50)])
    queries = np.array([[1.0, 0.1], [-1.0, 0.3], [0.0, 1.0]], np.float32)

    def made() -> tuple[Counting, Filters, Matches]:
        stored = Counting(50)
        filters = Filters(stored, names, {"f3": np.array([0])}, {"year": "int64"})
        return stored, filters, filters.matches("year < 20")

    stored, filters, matches = made()
    whole = filters.exact(matches, queries, 7)
    assert (matches.count, stored.most_at_once) == (59, 59)
    monkeypatch.setattr(module, "VECTORS", 5 * 2 * 4)
    stored, filters, matches = made()
    before = filters.held
    parts = filters.exact(matches, queries, 7)
    assert (stored.most_at_once, stored.vectors_read) == (5, 59)
    assert filters.held == before, "their vectors are not kept"
    for one, other in zip(whole, parts, strict=True):
        assert len(one) == 7
        for name in ("score", "file", "row"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()
