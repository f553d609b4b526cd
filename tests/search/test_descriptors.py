"""Stored descriptors by place: the same from row groups and from matrices on disk, within the room there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.recipe import RecipeOptions
from pipeline.core.types import Floats, Ints
from pipeline.search.engine import SearchIndex
from pipeline.search.groups import GroupCache
from pipeline.search.raw import RawVectors
from pipeline.table import DescriptorReader
from tests.builders import QUICK, images, run, write_files


@pytest.fixture(params=["float16", "float32", "binary"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    # Signs of what is never negative say nothing: codes are made of whitened descriptors.
    whiten = "pca" if request.param == "binary" else "none"
    recipe = RecipeOptions(**{**vars(QUICK), "dtype": request.param, "whiten": whiten})
    run(write_files(tmp_path / "src", images(30)), tmp_path / "root", recipe=recipe, files=9)
    return tmp_path / "root"


def drawn(index: SearchIndex, seed: int) -> tuple[Ints, Ints]:
    live = index.live()
    some = np.random.default_rng(seed).integers(0, len(live), 12)
    return live.file[some], live.row[some]


def test_vectors_are_the_same_before_and_after_files_are_written_out(root: Path) -> None:
    with SearchIndex.open(str(root)) as index, SearchIndex.open(str(root)) as fresh:
        first = [index.stored.vectors(*drawn(index, seed)) for seed in range(8)]
        again = [index.stored.vectors(*drawn(index, seed)) for seed in range(8)]
        for seed in range(8):
            file, row = drawn(index, seed)
            expected = np.stack([fresh.stored.vectors(file[i : i + 1], row[i : i + 1])[0] for i in range(len(file))])
            np.testing.assert_array_equal(first[seed], expected)
            np.testing.assert_array_equal(again[seed], expected)
        names = [one.key for one in index.stored.names(*drawn(index, 3))]
        assert names == [one.key for one in index.stored.names(*drawn(index, 3))]
        assert names == [
            fresh.stored.image(f, r).key for f, r in zip(*(x.tolist() for x in drawn(index, 3)), strict=True)
        ]


class Fake:
    """A descriptor file of so many rows, whose vectors are its number."""

    is_local, dtype, dim = False, "float16", 8

    def __init__(self, rows: int, value: float) -> None:
        self.rows, self.value, self.reads = rows, value, 0

    def batches(self, rows: int) -> list[Floats]:
        self.reads += 1
        return [np.full((self.rows, self.dim), self.value, np.float32)]


def noted(raw: RawVectors, number: int, reader: Fake, rows: list[int]) -> None:
    raw.note(number, reader, np.array(rows))  # type: ignore[arg-type]


def test_files_are_written_out_when_they_were_read_as_often_as_they_have_groups(tmp_path: Path) -> None:
    raw, reader = RawVectors(tmp_path), Fake(4000, 1.0)
    noted(raw, 0, reader, [0, 1, 2])
    noted(raw, 0, reader, [0, 1100])
    assert raw.matrix(0) is None
    noted(raw, 0, reader, [5])
    matrix = raw.matrix(0)
    assert matrix is not None
    assert (matrix.shape, matrix.dtype.name, float(matrix[3999, 7])) == ((4000, 8), "float16", 1.0)
    noted(raw, 0, reader, [0, 1100, 2200, 3300])
    assert reader.reads == 1


def test_the_oldest_make_room_and_readers_keep_what_they_hold(tmp_path: Path) -> None:
    raw = RawVectors(tmp_path, room=2 * 1000 * 8 * 2)
    readers = [Fake(1000, float(number)) for number in range(4)]
    for number in (0, 1):
        noted(raw, number, readers[number], [0])
    held = raw.matrix(0)
    assert held is not None
    noted(raw, 2, readers[2], [0])
    assert [raw.matrix(number) is not None for number in range(3)] == [False, True, True]
    assert float(held[999, 0]) == 0.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors-1", "vectors-2"]
    large = Fake(5000, 9.0)
    for _ in range(5):
        noted(raw, 9, large, [0])
    assert raw.matrix(9) is None
    assert large.reads == 0


def test_kept_tables_stay_within_their_room() -> None:
    cache, reads = GroupCache(25_000), []

    def read(number: int) -> pa.Table:
        reads.append(number)
        return pa.table({"x": np.zeros(1250)})

    for number in (0, 1, 0, 2, 0, 1):
        cache(number, lambda number=number: read(number))  # type: ignore[misc]
    assert reads == [0, 1, 2, 1]


def test_readers_are_as_they_were_without_a_cache(root: Path) -> None:
    path = next((root / "descriptors").rglob("*.parquet"))
    plain, kept = DescriptorReader(path), DescriptorReader(path, "", GroupCache(1 << 20))
    for _ in range(2):
        assert kept.take(np.array([1, 0, 1]), ["key", "width"]).equals(
            plain.take(np.array([1, 0, 1]), ["key", "width"])
        )
