"""The file of a listing: its columns are those that its rows need, and equal rows give equal bytes."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.artifacts import file_digest
from pipeline.core.errors import IntegrityError
from pipeline.core.memory import MemoryStore
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.listing import BATCH, SCHEMA, STORED, NewListing, Spool, StoredListing, aligned


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


def test_a_listing_is_read_as_often_as_needed_in_batches_of_a_bounded_size() -> None:
    listing = written(rows(0, BATCH + 3, None), rows(BATCH + 3, 2 * BATCH + 9, None))
    assert listing.rows == 2 * BATCH + 9
    for _ in range(2):
        assert [batch.num_rows for batch in listing.batches()] == [BATCH, BATCH, 9]
    groups = pq.read_metadata(listing.path)
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [BATCH, BATCH, 9]
    assert (listing.artifact, written().rows, list(written().batches())) == (None, 0, [])


def test_once_a_row_says_when_it_changed_those_before_it_are_written_again_and_nothing_else_is_left() -> None:
    listing = written(rows(0, BATCH, None), rows(BATCH, 2 * BATCH, 7), rows(2 * BATCH, 2 * BATCH + 5, None))
    groups = pq.read_metadata(listing.path)
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [BATCH, BATCH, 5]
    assert [batch["changed"].null_count for batch in listing.batches()] == [BATCH, 0, 5]
    assert [path.name for path in listing.path.parent.iterdir()] == ["listing.parquet"]
    assert {groups.row_group(n).column(0).compression for n in range(groups.num_row_groups)} == {"ZSTD"}


def stored(catalog: Catalog, table: pa.Table) -> StoredListing:
    return StoredListing(catalog, catalog.put_manifest(manifests.to_parquet(table)))


@pytest.mark.parametrize("changed", [None, 7])
def test_a_stored_listing_has_the_rows_that_were_written(changed: int | None) -> None:
    listing, catalog = written(rows(0, 10, changed)), Catalog(MemoryStore("root"))
    found = StoredListing(catalog, catalog.put_manifest_file(listing.path))
    for _ in range(2):
        assert pa.Table.from_batches(found.batches()).equals(pa.Table.from_batches([rows(0, 10, changed)]))
    assert found.artifact is not None
    for empty in (StoredListing(), StoredListing(catalog), StoredListing(None, found.artifact)):
        assert list(empty.batches()) == []


def test_a_stored_listing_of_other_columns_or_that_is_none_is_refused_by_name() -> None:
    catalog = Catalog(MemoryStore("root"))
    other = stored(catalog, pa.table({"path": ["a"]}))
    with pytest.raises(IntegrityError, match=r"manifests/.*other columns than its manifest should"):
        list(other.batches())
    none = StoredListing(catalog, catalog.put_manifest(b"none"))
    with pytest.raises(IntegrityError, match=r"manifests/.*no Parquet file"):
        list(none.batches())


def test_a_spool_yields_what_was_appended_as_often_as_needed_and_is_gone_with_the_object() -> None:
    spool = Spool(SCHEMA)
    spool.append(rows(0, 3, 1))
    pieces = [rows(3, 4, 2), rows(4, 6, 3)]
    spool.append(pa.Table.from_batches(pieces))
    assert spool.rows == 6
    assert spool.finish() is spool
    for _ in range(2):
        assert [batch.num_rows for batch in spool.batches()] == [3, 3], "a table's rows stay one batch"
        expected = pa.Table.from_batches([rows(0, 3, 1), *pieces])
        assert pa.Table.from_batches(spool.batches()).equals(expected)
    assert list(Spool(SCHEMA).finish().batches()) == []


PATHS = pa.schema([("path", pa.string())])
streams = st.lists(st.text("abé\U0001f600\uffff", min_size=1, max_size=2), unique=True, max_size=12)


def cut(paths: list[str], sizes: list[int]) -> list[pa.RecordBatch]:
    """Cut paths, in byte order, into batches, of which some are empty."""
    table = pa.table({"path": pa.array(sorted(paths, key=str.encode), pa.string())})
    batches, start = [], 0
    for size in [*sizes, len(paths)]:
        piece = table.slice(start, size).combine_chunks()
        batches.append(pa.RecordBatch.from_arrays([piece["path"].combine_chunks()], schema=PATHS))
        start += size
    return batches


@given(streams, streams, st.lists(st.integers(0, 4), max_size=6), st.lists(st.integers(0, 4), max_size=6))
def test_two_streams_are_cut_at_the_same_paths(
    left: list[str], right: list[str], these: list[int], those: list[int]
) -> None:
    pieces = list(aligned(cut(left, these), cut(right, those), (PATHS, PATHS)))
    found = [[piece[side]["path"].to_pylist() for piece in pieces] for side in (0, 1)]
    for paths, stream in zip(found, (left, right), strict=True):
        assert [path for piece in paths for path in piece] == sorted(stream, key=str.encode)
    last = b""
    for one, other in zip(*found, strict=True):
        both = [path.encode() for path in (*one, *other)]
        assert both, "every piece has rows"
        assert min(both) > last
        last = max(both)
    most = len([size for size in these if size]) + len([size for size in those if size]) + 2
    assert len(pieces) <= most, "a piece ends with a batch"
