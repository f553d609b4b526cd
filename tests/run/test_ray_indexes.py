"""Index shards are filled by workers that have a GPU each, and that say so where they cannot use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from pipeline.run.inline import InlineRunner
from pipeline.stages.fill_index import FillItem, FillTask
from tests.builders import QUICK, images, run, write_files

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]
WHY = ("torch finds no GPU that it can use", "torch is installed without CUDA")


@pytest.fixture
def two_gpus() -> Iterator[None]:
    """A local Ray with two logical GPUs."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=4, num_gpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    yield
    ray.shutdown()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPUs are logical")
def test_each_worker_that_fills_has_a_gpu_of_its_own(two_gpus: None, tmp_path: Path) -> None:
    from pipeline.core.local import LocalStore
    from pipeline.run.ray import RayOptions, RayRunner

    root = tmp_path / "root"
    run(write_files(tmp_path / "src", images(24)), root, recipe=replace(QUICK, indexes=("ivfpq",)))
    catalog = Catalog(LocalStore(str(root)))
    head = catalog.require_head()
    lists = load_lists(catalog, head)
    trained = manifests.index_shards(lists.indexes)[0].trained
    files = manifests.descriptor_files(lists.descriptors)
    items = [FillItem(kind="ivfpq", trained=trained, files=(file,)) for file in files]
    assert len(items) >= 4
    task = FillTask(root=str(root), recipe=head.recipe, kinds=("ivfpq",), device="auto")
    runner = RayRunner(RayOptions())
    filled = [outcome.value for outcome in runner.map(task, items)]
    runner.close()
    assert all(one is not None and one.computed is not None for one in filled)
    devices = {one.computed.device for one in filled if one is not None and one.computed is not None}
    assert devices <= {f"cpu: GPU {n} is there, but {why}" for n in "01" for why in WHY}
    stored = [outcome.value for outcome in InlineRunner().map(task, items)]
    assert {one.shard for one in stored if one is not None} == {one.shard for one in filled if one is not None}
    assert all(one is not None and one.computed is None for one in stored), "a rerun takes up what is stored"
