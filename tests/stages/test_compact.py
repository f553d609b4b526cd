"""Compact: what is rewritten, what is merged with what, and a copy without its dead rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.resources import PROCESS_BYTES
from pipeline.core.types import Artifact, DescriptorFile, IndexShard, split_ids
from pipeline.publish import manifests
from pipeline.publish.lists import load_lists
from pipeline.stages.compact import (
    MergeTask,
    RewriteItem,
    RewriteTask,
    merge_memory,
    to_merge,
    to_rewrite,
    without_images,
)
from pipeline.stages.kinds import index_spec
from pipeline.table import DescriptorReader
from tests.kinds.toy import DIM
from tests.life import InMemory, in_memory


def artifact(name: str) -> Artifact:
    return Artifact(uri=name, sha256="0" * 64, bytes=1)


def file(name: str, indexed: int, **more: Any) -> DescriptorFile:
    return DescriptorFile(
        shard_id=name, writer="w", artifact=artifact(name), rows=indexed, indexed=indexed, rejected=0, duplicates=0,
        dim=2, dtype="float16", **more,
    )  # fmt: skip


def shard(name: str, rows: int, kind: str = "flat", trained: str = "t") -> IndexShard:
    return IndexShard(
        kind=kind, fingerprint="f", trained=artifact(trained), artifact=artifact(name), rows=rows, files=(name,)
    )


@pytest.mark.parametrize(
    ("least", "expected"), [(0.0, ["a", "b", "c"]), (0.25, ["a", "b", "c"]), (0.26, ["b", "c"]), (0.5, ["b", "c"]),
                            (0.51, ["c"]), (1.0, ["c"])]
)  # fmt: skip
def test_a_file_is_rewritten_from_a_share_of_dead_rows_on(least: float, expected: list[str]) -> None:
    files = [file(name, 4) for name in "abcd"]
    rows = manifests.DescriptorRows()
    for each in files:
        rows.append(each)
    dead = {files[0].id: [1], files[1].id: [0, 3], files[2].id: [0, 1, 2, 3], "gone-w": [0]}
    tombstones = manifests.tombstone_table({name: np.array(at, np.int64) for name, at in dead.items()})
    items = to_rewrite(rows.table(), tombstones, least)
    assert sorted(item.file.shard_id for item in items) == expected
    assert all(list(item.dead) == dead[item.file.id] for item in items)


@pytest.mark.parametrize(
    ("shards", "most", "expected"),
    [
        ([("a", 1), ("b", 2), ("c", 3)], 10, [["a", "b", "c"]]),
        ([("a", 5), ("b", 5), ("c", 5)], 10, [["a", "b"]]),
        ([("a", 5), ("b", 5), ("c", 4), ("d", 1)], 10, [["a", "b"], ["c", "d"]]),
        ([("a", 6), ("b", 1), ("c", 9), ("d", 1)], 10, [["b", "d"]]),
        ([("a", 6), ("b", 1)], 10, []),
        ([("a", 3)], 10, []),
        ([("a", 3), ("b", 3), ("c", 3), ("d", 3)], 9, [["a", "b", "c"]]),
    ],
)
def test_small_shards_are_merged_up_to_a_size_and_large_ones_stay(
    shards: list[tuple[str, int]], most: int, expected: list[list[str]]
) -> None:
    given = [shard(name, rows) for name, rows in reversed(shards)]
    assert [[part.artifact.uri for part in group] for group in to_merge(given, most)] == expected


def test_only_shards_of_one_kind_and_one_training_are_merged() -> None:
    given = [shard("a", 1), shard("b", 1, "lsh"), shard("c", 1), shard("d", 1, trained="u"), shard("e", 1, trained="u")]
    groups = to_merge(given, 10)
    assert [[part.artifact.uri for part in group] for group in groups] == [["a", "c"], ["d", "e"]]


def test_a_merge_takes_the_memory_of_its_largest_group() -> None:
    def sized(size: int) -> IndexShard:
        return shard("a", 1).model_copy(update={"artifact": Artifact(uri="a", sha256="0" * 64, bytes=size)})

    groups = [[sized(size) for size in sizes] for sizes in ((7, 8), (20,), (1, 2, 3))]
    assert merge_memory(groups) == PROCESS_BYTES + 20
    assert merge_memory(groups[::2]) == PROCESS_BYTES + 15
    assert merge_memory([]) == PROCESS_BYTES


@pytest.fixture
def here() -> Iterator[InMemory]:
    with in_memory() as made:
        for number in range(6):
            made.put(f"{number}.jpg", f"image {number}")
        made.life.index()
        made.put("7.jpg", "image 7")
        made.life.index()
        yield made


def test_a_copy_without_images_holds_the_others_as_they_were(here: InMemory, tmp_path: Path) -> None:
    head = here.life.catalog.require_head()
    files = manifests.descriptor_files(load_lists(here.life.catalog, head).descriptors)
    first = next(file for file in files if file.indexed == 3)
    source = here.life.catalog.fetch(first.artifact, tmp_path)
    before = DescriptorReader(source, "before")
    assert without_images(source, tmp_path / "copy.parquet", np.array([1]), name="x") == (2, 2)
    after = DescriptorReader(tmp_path / "copy.parquet", "after")
    assert [image.key for image in after.images()] == [before.images()[0].key, before.images()[2].key]
    assert np.array_equal(after.batch().vectors, before.batch().vectors[[0, 2]])
    assert without_images(source, tmp_path / "none.parquet", np.array([0, 1, 2]), name="x") == (0, 0)
    task = RewriteTask(root=here.life.root, recipe=head.recipe)
    made = task.open(1)(RewriteItem(file=first, dead=(1,)))
    assert (made.shard_id, made.rows, made.indexed, made.rejected) == (first.shard_id, 2, 2, first.rejected)
    assert made.writer == made.artifact.sha256[:12] != first.writer, "it is named by its content"
    assert task.open(1)(RewriteItem(file=first, dead=(1,))) == made
    assert task.resources.gpu is MergeTask(root="", recipe=head.recipe).resources.gpu is False


def places(here: InMemory, part: IndexShard, folder: Path) -> list[tuple[str, int]]:
    """Where a search of an index shard finds images: (id of the descriptor file, row), sorted."""
    spec = index_spec(here.life.catalog.require_head().recipe, part.kind)
    searcher = spec.load(here.life.catalog.fetch(part.artifact, folder), rows=part.rows, dim=DIM)
    _, found = searcher.search(np.ones((1, DIM), np.float32), part.rows, exclude=np.zeros(0, np.int64), effort=1 << 10)
    positions, rows = split_ids(found[0][found[0] >= 0])
    return sorted((part.files[position], int(row)) for position, row in zip(positions, rows, strict=True))


def test_what_a_merged_shard_finds_is_what_its_parts_find(here: InMemory, tmp_path: Path) -> None:
    head = here.life.catalog.require_head()
    shards = manifests.index_shards(load_lists(here.life.catalog, head).indexes)
    task = MergeTask(root=here.life.root, recipe=head.recipe).open(1)
    for kind in {part.kind for part in shards}:
        parts = tuple(part for part in shards if part.kind == kind)
        expected = sorted(place for part in parts for place in places(here, part, tmp_path))
        assert len(expected) == 7
        assert places(here, task(parts), tmp_path) == expected
        assert places(here, task(parts[::-1]), tmp_path) == expected


def test_merged_shards_hold_the_rows_and_files_of_all_and_are_merged_once(here: InMemory) -> None:
    head = here.life.catalog.require_head()
    shards = manifests.index_shards(load_lists(here.life.catalog, head).indexes)
    task = MergeTask(root=here.life.root, recipe=head.recipe, memory=123).open(1)
    assert task.resources.memory == 123
    for kind in {part.kind for part in shards}:
        parts = tuple(part for part in shards if part.kind == kind)
        assert len(parts) == 2
        merged = task(parts)
        assert merged.rows == sum(part.rows for part in parts)
        assert merged.files == tuple(name for part in parts for name in part.files)
        assert (merged.kind, merged.trained, merged.fingerprint) == (kind, parts[0].trained, parts[0].fingerprint)
        names = set(here.objects.objects)
        writes = here.objects.objects[merged.artifact.uri]
        assert task(parts) == merged
        assert set(here.objects.objects) == names
        assert here.objects.objects[merged.artifact.uri] is writes, "what an earlier run merged is taken up"
        assert task(parts[::-1]).files == merged.files[-len(parts[1].files) :] + merged.files[: len(parts[0].files)]
