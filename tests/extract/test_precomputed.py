"""People with vectors of their own use the rest: whitening, indexes, increments, deletion, queries by vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.recipe import RecipeOptions
from pipeline.core.errors import BadImageError
from pipeline.core.types import Floats
from pipeline.extract.precomputed import PrecomputedExtractor
from pipeline.search.engine import SearchIndex, SearchOptions
from tests.builders import run

RECIPE = """
indexes = [{kind = "flat"}, {kind = "lsh", nbits = 64}]
dtype = "float32"
[source]
kind = "parquet"
key_column = "id"
[extractor]
kind = "precomputed"
dim = 32
origin = "some model"
"""


def vectors(count: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, 32)).astype(np.float32)


def write(path: Path, x: Floats, kind: pa.DataType, start: int = 0) -> None:
    path.parent.mkdir(exist_ok=True)
    names = [f"item-{number:05d}" for number in range(start, start + len(x))]
    pq.write_table(pa.table({"id": names, "embedding": pa.array([*x.tolist()], kind)}), path)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float32(), 32)], ids=str)
def test_a_column_of_vectors_is_indexed_whitened_and_grows(tmp_path: Path, kind: pa.DataType) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    options = RecipeOptions(recipe=str(recipe))
    x = vectors(300)
    write(tmp_path / "src" / "a.parquet", x[:200], kind)
    assert run(tmp_path / "src", tmp_path / "root", recipe=options).images["indexed"] == 200
    write(tmp_path / "src" / "b.parquet", x[200:], kind, start=200)
    report = run(tmp_path / "src", tmp_path / "root", recipe=options)
    assert (report.images["indexed"], report.plan.new_shards) == (300, 1), "only the new file is read"
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    with SearchIndex.open(str(tmp_path / "root")) as index:
        hits = index.search(unit[[7, 250]], SearchOptions(k=5, index="flat"))
    assert [found[0].key for found in hits] == ["a.parquet/item-00007", "b.parquet/item-00250"]
    expected = np.sort(unit[[7, 250]] @ unit.T, axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose([[hit.score for hit in found] for found in hits], expected, atol=1e-5)
    whitened = run(
        tmp_path / "src", tmp_path / "root-2", recipe=RecipeOptions(recipe=str(recipe), whiten="pca", dims=8)
    )
    assert whitened.recipe.whiten is not None


def test_vectors_that_cannot_be_used_are_rejects_with_reasons(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    rows: list[list[float] | None] = [*vectors(3).tolist(), [1.0] * 31, [float("nan")] * 32, [0.0] * 32, None]
    (tmp_path / "src").mkdir()
    table = pa.table({"id": list("abcdefg"), "embedding": pa.array(rows, pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "src" / "a.parquet")
    report = run(tmp_path / "src", tmp_path / "root", recipe=RecipeOptions(recipe=str(recipe)))
    assert (report.images["indexed"], report.images["rejected"]) == (3, 4)
    reasons = [name for name in report.stats if name.startswith("rejected:")]
    assert {"rejected:is no vector of N dimensions", "rejected:holds NaN or infinity", "rejected:is null"} < set(
        reasons
    )


def test_extreme_values_are_normalised_all_the_same() -> None:
    extractor = PrecomputedExtractor(4)
    for value in (1e-30, 1e30):
        image = extractor.prepare(np.full(4, value, "<f4").tobytes())
        np.testing.assert_allclose(extractor.extract([image]).vectors, np.full((1, 4), 0.5), rtol=1e-6)
    with pytest.raises(BadImageError, match="is no vector of 4 dimensions"):
        extractor.prepare(b"\xff\xd8 a photograph")
