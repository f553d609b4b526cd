"""Files of vectors are extracted block by block: the files are those of one row at a time, and memory is a block's."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.core.errors import ReadError, ShardError
from pipeline.core.local import LocalStore
from pipeline.core.stats import Stats
from pipeline.core.types import DescriptorFile, Entry, Floats, Reject, Shard
from pipeline.core.vectors import VectorBlock
from pipeline.extract.precomputed import PrecomputedExtractor
from pipeline.extract.precomputed import Spec as PrecomputedSpec
from pipeline.publish.catalog import Catalog
from pipeline.publish.recipe import Recipe
from pipeline.rejects import RejectsFile, read_rejects, write_rejects
from pipeline.sources import SourceSpec
from pipeline.sources.arrow import Spec as ArrowSpec
from pipeline.sources.npy import Spec as NpySpec
from pipeline.sources.parquet import Spec as ParquetSpec
from pipeline.stages.describe import Describer, ExtractOptions
from pipeline.stages.extract import ExtractTask
from pipeline.stages.usable import searchable
from pipeline.stages.vectors import VectorSettings, VectorShards
from pipeline.table import write_descriptors
from pipeline.whiten import Whitening, WhitenSpec

DIM = 8
CPU = torch.device("cpu")


def random(rows: int) -> Floats:
    return np.random.default_rng(rows).normal(size=(rows, DIM)).astype(np.float32)


def odd(rows: int) -> Floats:
    """Vectors of which some cannot be used, and some are lost by whitening or in float16."""
    x = random(rows)
    x[3::97], x[5::89, 2], x[7::101, 1] = 0, np.nan, np.inf
    x[11::83] = 1
    return x


def npy(folder: Path) -> tuple[SourceSpec, Path]:
    np.save(folder / "x.npy", odd(9000))
    return NpySpec(), folder / "x.npy"


def npy_with_names(folder: Path) -> tuple[SourceSpec, Path]:
    np.save(folder / "x.npy", odd(5000).astype(np.float64))
    (folder / "x.txt").write_text("".join(f"{row % 4000}.jpg\n" for row in range(5000)))
    return NpySpec(match="*.jpg*", exclude=("*/7*",)), folder / "x.npy"


def table(rows: int) -> pa.Table:
    vectors: list[Any] = odd(rows).tolist()
    vectors[0], vectors[50], vectors[2000] = None, vectors[50][:5], []
    years = [None if row % 3 == 0 else str(1900 + row % 100) for row in range(rows)]
    names = [None if row % 500 == 7 else f"name {row // 2}" for row in range(rows)]
    return pa.table({"id": names, "vector": pa.array(vectors, pa.list_(pa.float32())), "year": years})


def parquet(folder: Path) -> tuple[SourceSpec, Path]:
    pq.write_table(table(5000), folder / "x.parquet", row_group_size=1700)
    return ParquetSpec(key_column="id", metadata={"year": "int64"}), folder / "x.parquet"


def arrow(folder: Path) -> tuple[SourceSpec, Path]:
    data = table(6000)
    with pa.OSFile(str(folder / "x.arrow"), "wb") as file, pa.ipc.new_stream(file, data.schema) as writer:
        writer.write_table(data)
    return ArrowSpec(key_column="id", metadata={"year": "int64"}), folder / "x.arrow"


def nothing_usable(folder: Path) -> tuple[SourceSpec, Path]:
    np.save(folder / "x.npy", np.zeros((300, DIM), np.float32))
    return NpySpec(), folder / "x.npy"


SOURCES = [npy, npy_with_names, parquet, arrow, nothing_usable]


@dataclass(frozen=True)
class Made:
    descriptors: bytes
    rejects: list[Reject]
    reject_bytes: bytes
    counts: tuple[int, int, int]


def shard_of(path: Path) -> Shard:
    size = path.stat().st_size
    entry = Entry(path=path.name, size=size, etag="1")
    return Shard(id=path.stem, uri=str(path), bytes=size, etag="1", entries=(entry,))


def recipe_of(source: SourceSpec, root: Path, *, whiten: bool, dtype: Any) -> tuple[Recipe, Whitening | None]:
    recipe = Recipe(source=source, extractor=PrecomputedSpec(dim=DIM), dtype=dtype)
    if not whiten:
        return recipe, None
    axes = np.linalg.qr(random(DIM).astype(np.float64))[0][:, :5]
    whitening = Whitening(mean=np.full(DIM, DIM**-0.5), projection=axes)
    artifact = Catalog(LocalStore(str(root))).put_artifact(whitening.to_bytes(), "whitening.safetensors")
    return recipe.model_copy(update={"whiten": WhitenSpec(artifact=artifact)}), whitening


def in_blocks(recipe: Recipe, path: Path, root: Path) -> tuple[Made, dict[str, float]]:
    """What a worker makes."""
    task = ExtractTask(root=str(root), location=str(path), recipe=recipe, options=ExtractOptions(device="cpu"))
    worker = task.open(1)
    record: DescriptorFile = worker(shard_of(path))
    rejects = root / record.rejects.uri if record.rejects is not None else None
    made = Made(
        descriptors=(root / record.artifact.uri).read_bytes(),
        rejects=read_rejects(rejects) if rejects else [],
        reject_bytes=rejects.read_bytes() if rejects else b"",
        counts=(record.rows, record.indexed, record.rejected),
    )
    return made, worker.take_stats()


def one_by_one(recipe: Recipe, path: Path, whitening: Whitening | None, folder: Path) -> Made:
    """The same by way of images: each row prepared, described and written as an image is."""
    source: Any = recipe.source
    describe = Describer(PrecomputedExtractor(DIM), CPU, 1, ExtractOptions(), Stats())
    described = describe(source.open(str(path)).images(shard_of(path)))
    described = searchable(described, whitening.apply if whitening else None, recipe.dtype)
    target, rejects = folder / "one.parquet", folder / "one.rejects.parquet"
    write_descriptors(
        target,
        described.images,
        described.batch,
        dtype=recipe.dtype,
        recipe=recipe.descriptor_id,
        metadata=source.kinds,
    )
    write_rejects(rejects, described.rejects)
    return Made(
        descriptors=target.read_bytes(),
        rejects=described.rejects,
        reject_bytes=rejects.read_bytes() if described.rejects else b"",
        counts=(len(described.batch.vectors), len(described.images), len(described.rejects)),
    )


@pytest.mark.parametrize("whiten", [False, True], ids=["plain", "whitened"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_the_files_are_those_of_one_row_at_a_time(source: Any, whiten: bool, tmp_path: Path) -> None:
    root = tmp_path / "root"
    spec, path = source(tmp_path)
    for dtype in ("float16", "float32", "binary"):
        recipe, whitening = recipe_of(spec, root, whiten=whiten, dtype=dtype)
        made, stats = in_blocks(recipe, path, root)
        assert "passes" not in stats, "not by way of the forward passes"
        expected = one_by_one(recipe, path, whitening, tmp_path)
        assert made.rejects == expected.rejects
        assert made == expected
        assert stats["images"] == expected.counts[1]
        assert stats["rejected"] == sum(value for name, value in stats.items() if name.startswith("rejected:"))
        if "year" in spec.kinds:
            assert stats["null_year"] == pq.read_table(tmp_path / "one.parquet")["year"].null_count


def settings() -> VectorSettings:
    extractor = PrecomputedExtractor(DIM)
    return VectorSettings(extractor=extractor, whiten=None, dtype="float16", recipe="r", metadata={})


def blocks(count: int, alive: list[weakref.ref[Any]], most: list[int]) -> Iterator[VectorBlock]:
    """Blocks of 1,000 rows, of which none is kept here."""
    for number in range(count):
        gc.collect()
        most[0] = max(most[0], sum(one() is not None for one in alive))
        names = [f"{number}-{row}" for row in range(1000)]
        made = VectorBlock.of_matrix(names, names, odd(1000))
        alive.append(weakref.ref(made.values))
        yield made
        del made


def test_no_more_than_a_few_blocks_are_held(tmp_path: Path) -> None:
    alive: list[weakref.ref[Any]] = []
    most = [0]
    files = VectorShards(settings(), Stats(), threading.Event())(blocks(12, alive, most), tmp_path)
    assert files.counts.rows + files.counts.rejected == 12_000
    assert most[0] <= 2
    groups = pq.ParquetFile(files.descriptors).metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups - 1)] == [1024] * (
        groups.num_row_groups - 1
    )


def test_rejects_are_written_as_they_come_and_in_their_order(tmp_path: Path) -> None:
    first = [Reject(key=f"a{n}", uri="u", reason="zero", bytes=n) for n in range(70_000)]
    last = [Reject(key=f"b{n}", uri="u", reason="lost", bytes=n) for n in range(10)]
    with RejectsFile(tmp_path / "r.parquet") as file:
        file.at_the_end(last[:5])
        file.add(first[:69_000])
        file.at_the_end(last[5:])
        file.add(first[69_000:])
    assert read_rejects(tmp_path / "r.parquet") == [*first, *last]
    assert file.count == 70_010
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]


def test_a_file_that_breaks_off_is_no_shard_and_one_that_is_away_is_read_again(tmp_path: Path) -> None:
    _, path = npy(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    recipe, _ = recipe_of(NpySpec(), tmp_path / "root", whiten=False, dtype="float16")
    with pytest.raises(ShardError, match="truncated"):
        in_blocks(recipe, path, tmp_path / "root")
    assert not list((tmp_path / "root").glob("descriptors/*/*"))

    def failing() -> Iterator[VectorBlock]:
        names = [str(row) for row in range(2000)]
        yield VectorBlock.of_matrix(names, names, random(2000))
        raise OSError(5, "Input/output error")

    write = VectorShards(settings(), Stats(), threading.Event())
    with pytest.raises(ReadError, match="Input/output error"):
        write(failing(), tmp_path)
    names = [str(row) for row in range(2000)]
    files = write(iter([VectorBlock.of_matrix(names, names, random(2000))]), tmp_path)
    assert pq.read_table(files.descriptors)["key"].to_pylist() == names


def test_a_run_that_ends_stops_at_the_next_block(tmp_path: Path) -> None:
    stopped = threading.Event()
    write = VectorShards(settings(), Stats(), stopped)

    def stopping() -> Iterator[VectorBlock]:
        for number in range(5):
            if number == 2:
                stopped.set()
            yield VectorBlock.of_matrix(["a"], ["u"], random(1))
        raise AssertionError("it went on")

    with pytest.raises(InterruptedError):
        write(stopping(), tmp_path)
