"""Training: the sample is bounded by a budget, and drawn without reading every file."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.core.resources import PROCESS_BYTES
from pipeline.core.types import Artifact, DescriptorFile
from pipeline.index.ivfpq import Spec
from pipeline.publish import manifests
from pipeline.stages.sample import COPIES, SPREAD
from pipeline.stages.train_index import finite, train_item, train_memory


def files(count: int, rows: int, dim: int) -> list[DescriptorFile]:
    counts = {"rows": rows, "indexed": rows, "rejected": 0, "duplicates": 0}
    artifact = Artifact(uri="descriptors/x.parquet", sha256="0" * 64, bytes=1)
    return [
        DescriptorFile(shard_id=f"{n:05d}", writer="w", artifact=artifact, dim=dim, dtype="float16", **counts)
        for n in range(count)
    ]


@pytest.mark.parametrize("dim", [128, 2048])
def test_the_sample_stays_within_its_budget_whatever_the_collection(dim: int) -> None:
    table = manifests.descriptor_table(files(20_000, 5_000, dim))
    item = train_item(Spec(), table, memory_bytes=None, train_bytes=1 << 30)
    assert 4 * COPIES * dim * item.rows <= 1 << 30
    assert item.rows > 0.9 * min((1 << 30) / (4 * COPIES * dim), Spec().resolve(rows=10**8, dim=dim).sample_rows(10**8))
    held = 5_000 * len(item.files)
    assert SPREAD * item.rows <= held <= SPREAD * item.rows + 5_000, "few files are read"


def test_a_small_collection_is_its_own_sample() -> None:
    item = train_item(Spec(), manifests.descriptor_table(files(3, 100, 64)), memory_bytes=None)
    assert (item.rows, len(item.files)) == (300, 3)


def test_rows_of_a_sample_that_are_not_finite_are_left_out_and_refused_where_there_are_no_others() -> None:
    sample = np.eye(4, dtype=np.float32)
    sample[1, 2], sample[3, 0] = np.nan, np.inf
    np.testing.assert_array_equal(finite(sample), sample[[0, 2]])
    assert finite(sample[:0]).shape == (0, 4)
    with pytest.raises(UserError, match="not finite"):
        finite(sample[[1, 3]])


def test_a_training_asks_for_the_memory_of_its_sample() -> None:
    table = manifests.descriptor_table(files(20_000, 5_000, 512))
    item = train_item(Spec(), table, memory_bytes=None, train_bytes=1 << 30)
    asked = train_memory([item]) - PROCESS_BYTES
    assert 0.9 * (1 << 30) < asked <= 1 << 30
    assert train_memory([]) == PROCESS_BYTES
