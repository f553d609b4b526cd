"""The file of a listing: its columns are those that its rows need, and equal rows give equal bytes."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.artifacts import file_digest
from pipeline.publish.listing import BATCH, SCHEMA, STORED, NewListing


def rows(start: int, end: int, changed: int | None) -> pa.RecordBatch:
    count = end - start
    columns = [
        pa.array([f"{number:09d}" for number in range(start, end)]),
        pa.array([1] * count, pa.int64()),
        pa.array(["etag"] * count),
        pa.array(["shard"] * count),
        pa.array([changed] * count, pa.int64()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def written(*batches: pa.RecordBatch) -> NewListing:
    listing = NewListing()
    for batch in batches:
        listing.append(batch)
    return listing.finish()


def test_a_listing_in_which_nothing_says_when_a_file_changed_has_the_file_that_it_always_had() -> None:
    listing = written(rows(0, 10, None))
    assert pq.read_schema(listing.path).equals(STORED)
    assert [batch.schema for batch in listing.batches()] == [SCHEMA]


@pytest.mark.parametrize("unsaid", [1, BATCH - 1, BATCH, 2 * BATCH + 5])
def test_rows_that_say_it_may_come_after_any_number_that_do_not(unsaid: int) -> None:
    one = written(rows(0, unsaid, None), rows(unsaid, unsaid + BATCH, 7))
    other = written(*(rows(at, min(at + 40_000, unsaid), None) for at in range(0, unsaid, 40_000)),
                    rows(unsaid, unsaid + BATCH, 7))  # fmt: skip
    assert file_digest(one.path) == file_digest(other.path)
    assert pq.read_schema(one.path).equals(SCHEMA)
    found = pa.Table.from_batches(one.batches())
    assert (found.num_rows, found["changed"].null_count) == (unsaid + BATCH, unsaid)
    assert found["path"].to_pylist() == [f"{number:09d}" for number in range(unsaid + BATCH)]
    assert pq.read_metadata(one.path).row_group(0).num_rows == BATCH
