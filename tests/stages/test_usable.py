"""Descriptors that cannot be searched: rejects with a true reason, for every dtype, with and without whitening."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.core.local import LocalStore
from pipeline.core.types import DescriptorBatch, DescriptorFile, DType, Floats
from pipeline.features.usable import NOT_FINITE, ZERO, faults
from pipeline.publish.catalog import Catalog
from pipeline.stages.describe import Described
from pipeline.stages.fit import MomentsTask
from pipeline.stages.sample import read_sample
from pipeline.stages.usable import searchable
from pipeline.table import ImageRow, write_descriptors
from pipeline.whiten import Moments, Whitening, fit_pca


def rows(count: int) -> list[ImageRow]:
    return [ImageRow(key=f"{n}", uri=f"u/{n}", width=8, height=8, sha256="0" * 64) for n in range(count)]


def described(vectors: Floats) -> Described:
    count = len(vectors)
    return Described(images=rows(count), batch=DescriptorBatch.of_images(vectors), rejects=[], sizes=list(range(count)))


def odd() -> Floats:
    """Five vectors: good, NaN, infinite, zero, good."""
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    vectors[1, 2], vectors[2, 0], vectors[3] = np.nan, -np.inf, 0
    return vectors


@pytest.mark.parametrize("dtype", ["float16", "float32", "binary"])
def test_vectors_that_are_not_finite_or_zero_are_rejects(dtype: DType) -> None:
    found = searchable(described(odd()), None, dtype, "the image has one colour")
    assert [row.key for row in found.images] == ["0", "4"]
    np.testing.assert_array_equal(found.batch.vectors, odd()[[0, 4]])
    assert found.batch.image_row.tolist() == [0, 1]
    assert [(r.key, r.reason, r.bytes) for r in found.rejects] == [
        ("1", NOT_FINITE, 1),
        ("2", NOT_FINITE, 2),
        ("3", f"{ZERO}, the image has one colour", 3),
    ]


def test_what_is_stored_counts_not_what_was_computed() -> None:
    vectors = np.array([[1e5, 0], [1e-9, 1e-9], [1, 0]], np.float32)
    assert [mask.tolist() for mask in faults(vectors, "float16")] == [[True, False, False], [False, True, False]]
    assert not np.any(faults(vectors, "float32"))


def test_whitening_meets_finite_vectors_only_and_what_it_makes_zero_is_a_reject() -> None:
    vectors = odd()
    whitening = Whitening(mean=vectors[4].astype(np.float64), projection=np.eye(4)[:, :3])
    found = searchable(described(vectors), whitening.apply, "float32")
    assert [row.key for row in found.images] == ["0"]
    assert found.batch.vectors.shape == (1, 3)
    assert {r.key: r.reason for r in found.rejects} == {"1": NOT_FINITE, "2": NOT_FINITE, "3": ZERO, "4": ZERO}


def test_images_without_fault_stay_as_they_are() -> None:
    before = described(odd()[[0, 4]])
    after = searchable(before, None, "float16")
    assert (after.images, after.rejects) == (before.images, [])


def test_of_local_descriptors_the_bad_rows_are_left_out_and_an_image_with_its_last() -> None:
    vectors = odd()
    batch = DescriptorBatch(
        vectors=vectors,
        image_row=np.array([0, 0, 1, 1, 2]),
        boxes=np.arange(20, dtype=np.float32).reshape(5, 4),
        scales=np.arange(5, dtype=np.float32),
        scores=np.arange(5, dtype=np.float32),
    )
    found = searchable(Described(images=rows(3), batch=batch, rejects=[]), None, "float16")
    assert [row.key for row in found.images] == ["0", "2"]
    assert found.batch.image_row.tolist() == [0, 1]
    assert found.batch.scales is not None
    assert found.batch.scales.tolist() == [0, 4]
    assert [(r.key, r.reason) for r in found.rejects] == [("1", NOT_FINITE)]


def stored(root: Path, vectors: Floats) -> tuple[Catalog, DescriptorFile]:
    """A descriptor file as earlier releases wrote it, whatever the vectors."""
    path = root / "made.parquet"
    write_descriptors(path, rows(len(vectors)), DescriptorBatch.of_images(vectors), dtype="float32", recipe="r")
    catalog = Catalog(LocalStore(str(root)))
    artifact = catalog.upload(path, catalog.descriptor_name("r", "s", "w"))
    count = len(vectors)
    numbers = {"rows": count, "indexed": count, "rejected": 0, "duplicates": 0, "dim": 4}
    return catalog, DescriptorFile(shard_id="s", writer="w", artifact=artifact, dtype="float32", **numbers)


def test_a_sample_of_an_old_root_leaves_out_what_is_not_finite(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalog, file = stored(tmp_path, odd())
    np.testing.assert_array_equal(read_sample(catalog, [file], 5, 0), odd()[[0, 3, 4]])
    assert "2 of 5 sampled vectors are not finite" in caplog.text


def test_a_sample_without_one_finite_vector_is_an_error_of_one_line(tmp_path: Path) -> None:
    catalog, file = stored(tmp_path, np.full((3, 4), np.nan, np.float32))
    with pytest.raises(UserError, match="of 3 vectors holds none that is finite"):
        read_sample(catalog, [file], 3, 0)


def test_a_whitening_is_fitted_from_finite_vectors(tmp_path: Path) -> None:
    catalog, file = stored(tmp_path, odd())
    moments = Moments.from_bytes(catalog.read(MomentsTask(root=str(tmp_path))(file)))
    assert moments.count == 3
    assert np.isfinite(fit_pca(moments).projection).all()
