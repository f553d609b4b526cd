"""Filling: what a worker asks for covers the index shard that it makes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.local import LocalStore
from pipeline.core.resources import PROCESS_BYTES
from pipeline.core.specs import kinds
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from pipeline.stages.compact import merge_memory
from pipeline.stages.fill_index import FillTask, fill_memory
from pipeline.stages.kinds import index_specs
from tests.shared_root import publish_vectors


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog(LocalStore(publish_vectors(tmp_path_factory.mktemp("fill"), kinds("pipeline.index"))))


@pytest.mark.parametrize("kind", kinds("pipeline.index"))
def test_the_memory_of_a_fill_covers_the_rows_of_its_index_shard(catalog: Catalog, kind: str) -> None:
    head = catalog.require_head()
    lists = load_lists(catalog, head)
    rows = lists.descriptors["rows"].to_numpy()
    (spec,) = (spec for spec in index_specs(head.recipe) if spec.kind == kind)
    dim = lists.descriptors["dim"][0].as_py()
    every = np.arange(len(rows))
    asked = fill_memory(head.recipe, lists.descriptors, {kind: [every[:1], every]}) - PROCESS_BYTES
    resolved = spec.resolve(rows=int(rows.sum()), dim=dim)
    assert asked >= resolved.row_bytes(dim) * rows.sum()
    assert asked > fill_memory(head.recipe, lists.descriptors, {kind: [every[:1]]}) - PROCESS_BYTES, (
        "the largest counts"
    )
    task = FillTask(root=catalog.store.url, recipe=head.recipe, memory=PROCESS_BYTES + asked)
    assert task.resources.memory == PROCESS_BYTES + asked


def test_the_memory_of_a_merge_is_that_of_its_parts(catalog: Catalog) -> None:
    shards = manifests.index_shards(load_lists(catalog, catalog.require_head()).indexes)
    sizes = [shard.artifact.bytes for shard in shards[:3]]
    assert merge_memory([tuple(shards[:3]), tuple(shards[:1])]) == PROCESS_BYTES + sum(sizes)
    assert merge_memory([]) == PROCESS_BYTES
