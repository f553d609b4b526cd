"""Manifests: tables of shards that keep every value, and what is done with their rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import IntegrityError
from pipeline.core.local import LocalStore
from pipeline.core.types import Artifact, DescriptorFile, IndexShard
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import EMPTY, load_lists
from pipeline.publish.manifests import DELETIONS, DESCRIPTORS, INDEXES, TOMBSTONES
from tests.publish.test_compatibility import FIRST


def artifact(name: str) -> Artifact:
    return Artifact(uri=f"at/{name}", sha256=f"sha of {name}", bytes=len(name))


def file(shard: str, number: int = 1, *, rejects: bool = False) -> DescriptorFile:
    """A file in which every column has another value."""
    return DescriptorFile(
        shard_id=shard,
        writer=f"w{number}",
        artifact=artifact(f"{shard}.parquet"),
        rejects=artifact(f"{shard}.rejects") if rejects else None,
        rows=10 * number,
        indexed=10 * number + 1,
        rejected=10 * number + 2,
        duplicates=10 * number + 3,
        dim=10 * number + 4,
        dtype="float32",
    )


def id_table(names: Sequence[str], *, cut: int = 0) -> pa.Table:
    """Rows of one column, in one piece, or in pieces of `cut` rows."""
    table = pa.table({"id": pa.array(names, pa.string())})
    pieces = table.to_batches(max_chunksize=cut) if cut else table.to_batches()
    return pa.Table.from_batches(pieces, table.schema)


def test_descriptor_files_are_read_back_as_they_were_sorted_by_id() -> None:
    files = [file("b", 2, rejects=True), file("a"), file("c", 3)]
    table = manifests.descriptor_table(files)
    assert table.schema.equals(DESCRIPTORS)
    assert table["id"].to_pylist() == ["a-w1", "b-w2", "c-w3"]
    assert list(manifests.descriptor_files(table)) == [files[1], files[0], files[2]]
    assert manifests.uris(table, "rejects") == ["at/b.rejects"]
    assert manifests.uris(table, "artifact") == ["at/a.parquet", "at/b.parquet", "at/c.parquet"]
    assert manifests.artifact_column(table, "rejects") == [artifact("b.rejects")]
    assert manifests.artifact_column(table) == [artifact(f"{name}.parquet") for name in "abc"]
    assert manifests.total(table, "rejected") == 12 + 22 + 32
    assert manifests.total(DESCRIPTORS.empty_table(), "rejected") == 0


def test_more_files_than_are_collected_at_a_time_are_all_there() -> None:
    count = (1 << 15) + 2
    rows = manifests.DescriptorRows()
    one = file("x")
    for number in range(count):
        rows.append(one.model_copy(update={"shard_id": f"{count - number:06d}"}))
    table = rows.table()
    assert table["shard_id"].to_pylist() == [f"{number:06d}" for number in range(1, count + 1)]
    assert table["artifact"].null_count == 0
    assert table["rejects"].null_count == count
    assert manifests.descriptor_table([]).equals(DESCRIPTORS.empty_table())


def test_index_shards_are_read_back_in_their_order() -> None:
    shards = [
        IndexShard(
            kind=kind,
            fingerprint=f"print of {kind}",
            trained=artifact(f"{kind}.trained"),
            artifact=artifact(kind),
            rows=rows,
            files=("b", "a"),
        )
        for kind, rows in (("lsh", 3), ("flat", 5))
    ]
    table = manifests.index_table(shards)
    assert table.schema.equals(INDEXES)
    assert manifests.index_shards(table) == shards
    assert manifests.index_shards(manifests.index_table([])) == []


def test_tombstones_are_read_back_by_file_and_one_of_no_rows_is_none() -> None:
    rows = {"b": np.array([4, 9]), "a": np.array([0]), "none": np.zeros(0, np.int64)}
    table = manifests.tombstone_table(rows)
    assert table.schema.equals(TOMBSTONES)
    assert table["file"].to_pylist() == ["a", "b"]
    assert {name: found.tolist() for name, found in manifests.tombstones(table).items()} == {"a": [0], "b": [4, 9]}
    assert manifests.tombstones(manifests.tombstone_table({})) == {}


def test_rows_of_two_are_those_of_either_once_and_in_order() -> None:
    one = {"a": np.array([1, 5]), "b": np.array([2])}
    both = manifests.united(one, {"a": np.array([0, 5]), "c": np.array([7])})
    assert {name: rows.tolist() for name, rows in both.items()} == {"a": [0, 1, 5], "b": [2], "c": [7]}


@given(st.lists(st.integers(0, 40), max_size=60), st.lists(st.integers(0, 40), max_size=60))
def test_which_values_are_among_others_whichever_side_is_larger(values: list[int], others: list[int]) -> None:
    expected = [value in set(others) for value in values]
    columns = [pa.array(numbers, pa.int64()) for numbers in (values, others)]
    assert manifests.among(*columns).to_pylist() == expected
    chunked = [pa.chunked_array([column[:3], column[3:]]) for column in columns]
    assert manifests.among(*chunked).to_pylist() == expected


def test_a_few_values_among_very_many_others() -> None:
    many = pa.array(range(1000), pa.int64())
    assert manifests.among(pa.array([-1, 0, 500, 999, 1000], pa.int64()), many).to_pylist() == [
        False,
        True,
        True,
        True,
        False,
    ]


@given(
    st.sets(st.text("abc", min_size=1, max_size=3)), st.sets(st.text("abc", min_size=1, max_size=3)), st.integers(1, 5)
)
def test_tables_sorted_by_id_are_put_together_sorted_by_id(one: set[str], other: set[str], cut: int) -> None:
    more = sorted(other - one)
    found = manifests.with_rows(id_table(sorted(one), cut=cut), id_table(more))
    assert found["id"].to_pylist() == sorted([*one, *more])


def test_many_rows_more_are_put_together_too_and_few_copy_nothing_of_a_large_table() -> None:
    large = id_table([f"{number:06d}" for number in range(0, 20_000, 2)])
    many = id_table([f"{number:06d}" for number in range(1, 9_000, 2)])
    assert many.num_rows > 4096
    assert manifests.with_rows(large, many)["id"].to_pylist() == sorted(
        [*large["id"].to_pylist(), *many["id"].to_pylist()]
    )
    few = manifests.with_rows(large, id_table(["000001", "019999"]))
    assert few.num_rows == large.num_rows + 2
    memory = large["id"].chunk(0).buffers()[2].address
    assert {chunk.buffers()[2].address for chunk in few["id"].chunks if len(chunk) > 1} == {memory}


def test_a_manifest_of_equal_rows_has_equal_bytes_however_they_are_batched() -> None:
    names = [f"{number:06d}" for number in range(70_000)]
    data = manifests.to_parquet(id_table(names))
    assert data == manifests.to_parquet(id_table(names, cut=999))
    assert manifests.from_parquet(data, id_table([]).schema, "x")["id"].to_pylist() == names


def test_a_manifest_of_other_columns_or_that_is_none_is_refused_by_name() -> None:
    data = manifests.to_parquet(manifests.tombstone_table({"a": np.array([0])}))
    with pytest.raises(IntegrityError, match=r"manifests/x\.parquet.*other columns"):
        manifests.from_parquet(data, INDEXES, "manifests/x.parquet")
    for damaged in (b"", b"none", data[:-1], b"x" * len(data)):
        with pytest.raises(IntegrityError, match=r"manifests/x\.parquet.*no Parquet file"):
            manifests.from_parquet(damaged, TOMBSTONES, "manifests/x.parquet")
        with pytest.raises(IntegrityError, match=r"manifests/x\.parquet.*no Parquet file"):
            manifests.deletion_table(damaged, "manifests/x.parquet")
    with pytest.raises(IntegrityError, match=r"manifests/x\.parquet.*other columns"):
        manifests.deletion_table(data, "manifests/x.parquet")


def test_an_older_manifest_of_deletions_says_null_where_it_says_nothing() -> None:
    by_key = {"key": ["a", "b"], "entry": ["e", "f"], "version": [3, 4]}
    nothing = {"sha256": [None, None], "scope": [None, None], "kept": [None, None]}
    older = pa.table(by_key, schema=pa.schema([DELETIONS.field(name) for name in by_key]))
    found = manifests.deletion_table(manifests.to_parquet(older), "x")
    assert found.schema.equals(DELETIONS)
    assert found.to_pydict() == {**by_key, **nothing}
    newer = pa.table({**by_key, "sha256": ["s", "t"], "scope": ["key", "image"], "kept": [[], ["c"]]}, schema=DELETIONS)
    assert manifests.deletion_table(manifests.to_parquet(newer), "x").equals(newer)


def test_the_lists_of_a_snapshot_are_those_that_it_names(tmp_path: Path) -> None:
    catalog = Catalog(LocalStore(str(tmp_path)))
    deletions = pa.table(
        {"key": ["k"], "entry": ["e"], "version": [2], "sha256": ["s"], "scope": ["image"], "kept": [[]]},
        schema=DELETIONS,
    )
    descriptors = manifests.descriptor_table([file("a", rejects=True)])
    tombstones = manifests.tombstone_table({"a-w1": np.array([3])})
    put = {
        "descriptors": catalog.put_manifest(manifests.to_parquet(descriptors)),
        "tombstones": catalog.put_manifest(manifests.to_parquet(tombstones)),
        "indexes": catalog.put_manifest(manifests.to_parquet(INDEXES.empty_table())),
        "deletions": catalog.put_manifest(manifests.to_parquet(deletions)),
    }
    snapshot = Catalog(LocalStore(str(FIRST))).require_head().model_copy(update=put)
    lists = load_lists(catalog, snapshot)
    assert lists.listing.artifact == snapshot.listing
    assert (lists.descriptors.equals(descriptors), lists.tombstones.equals(tombstones)) == (True, True)
    assert (lists.indexes.num_rows, lists.deletions.equals(deletions)) == (0, True)
    none = load_lists(catalog, snapshot.model_copy(update={"deletions": None}))
    assert none.deletions.equals(DELETIONS.empty_table())


def test_the_lists_of_a_new_root_are_empty() -> None:
    tables = (EMPTY.descriptors, EMPTY.indexes, EMPTY.tombstones, EMPTY.deletions)
    assert [table.schema for table in tables] == [DESCRIPTORS, INDEXES, TOMBSTONES, DELETIONS]
    assert [table.num_rows for table in tables] == [0, 0, 0, 0]
    assert (list(EMPTY.listing.batches()), EMPTY.listing.artifact) == ([], None)
