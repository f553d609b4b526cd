"""A worker of extraction: one shard is written and recorded at a time, however many are read side by side."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.recipe import RecipeOptions, build_recipe
from pipeline.core.types import DescriptorFile, Shard
from pipeline.stages.describe import ExtractOptions
from pipeline.stages.extract import ExtractTask
from tests.builders import QUICK, images, run, write_files
from tests.faulty import Watched
from tests.life import in_memory


def test_no_two_descriptor_files_of_a_worker_lack_their_records_at_a_time() -> None:
    with in_memory() as here:
        entries = []
        for number in range(12):
            here.put(f"{number:02d}.jpg", f"image {number}")
        entries = list(here.images.list())
        unrecorded: set[str] = set()
        most, lock = [0], threading.Lock()

        def watch(kind: str, name: str, carry_out: Any) -> Any:
            if name.startswith("descriptors/") and kind in ("upload", "put_if_absent"):
                shard = name.rsplit("/", 1)[1].split("-")[0].removesuffix(".json")
                with lock:
                    if kind == "upload":
                        unrecorded.add(shard)
                    most[0] = max(most[0], len(unrecorded))
                time.sleep(0.02)
                result = carry_out()
                if kind == "put_if_absent":
                    with lock:
                        unrecorded.discard(shard)
                return result
            return carry_out()

        with here.through(lambda store: Watched(store, watch)):
            recipe = build_recipe(RecipeOptions(recipe=here.life.recipe), head=None, source_kind="folder").recipe
            task = ExtractTask(
                root=here.life.root,
                location=here.life.source,
                recipe=replace_indexes(recipe),
                options=ExtractOptions(device="cpu"),
            )
            worker = task.open(2)
            shards = [
                Shard(id=f"s{n:02d}", uri=here.life.source, bytes=entry.size, etag=f"s{n:02d}", entries=(entry,))
                for n, entry in enumerate(entries)
            ]
            with ThreadPoolExecutor(4) as pool:
                records: list[DescriptorFile] = list(pool.map(worker, shards))
    assert sorted(record.shard_id for record in records) == [shard.id for shard in shards]
    assert most[0] == 1


def replace_indexes(recipe: Any) -> Any:
    return recipe.model_copy(update={"indexes": ()})


def test_options_of_a_task_decide_how_many_shards_a_worker_on_a_cpu_takes() -> None:
    with in_memory() as here:
        recipe = build_recipe(RecipeOptions(recipe=here.life.recipe), head=None, source_kind="folder").recipe
        task = ExtractTask(root=here.life.root, location=here.life.source, recipe=recipe)
        alone = replace(task, options=ExtractOptions(device="cpu", overlap=False))
        assert [one.open(1).depth for one in (replace(task, options=ExtractOptions(device="cpu")), alone)] == [2, 1]


def test_images_of_a_sample_are_counted_once_and_so_are_its_rejects(tmp_path: Path) -> None:
    files = {**images(10), "bad.jpg": b"no picture"}
    source = write_files(tmp_path / "src", files)
    report = run(source, tmp_path / "root", recipe=replace(QUICK, whiten="pca", dims=4))
    assert (report.stats["images"], report.stats["rejected"], report.stats["sampled"]) == (10, 1, 10)
    assert sum(count for name, count in report.stats.items() if name.startswith("rejected:")) == 1
