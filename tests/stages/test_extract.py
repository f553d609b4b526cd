"""A worker of extraction: one shard is written and recorded at a time, however many are read side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.index import IndexOptions, run_index
from jobs.recipe import RecipeOptions, build_recipe
from jobs.same_root import RootChecked
from pipeline.core.types import Artifact, DescriptorFile, Shard
from pipeline.extract.hog import Spec as HogSpec
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.publish.packing import Packing
from pipeline.run.base import limit_of, name_of
from pipeline.run.inline import InlineRunner
from pipeline.stages.describe import ExtractOptions
from pipeline.stages.extract import ExtractTask
from pipeline.stages.kinds import extract_spec
from tests.builders import QUICK, images, run, write_files
from tests.faulty import Watched
from tests.life import in_memory, quiet


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


class Raced(InlineRunner):
    """Gives each shard to two workers: the first one is held up at a point, until the second one has done it."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage, self.held, self.go_on = stage, threading.Event(), threading.Event()
        self.files: list[tuple[Any, DescriptorFile]] = []

    def watch(self, kind: str, name: str, carry_out: Any) -> Any:
        if kind == self.stage and name.startswith("descriptors/") and not self.held.is_set():
            self.held.set()
            assert self.go_on.wait(30)
        return carry_out()

    def map(self, task: Any, items: Any) -> Iterator[Any]:
        if name_of(task) != "ExtractTask":
            yield from super().map(task, items)
            return
        for item in items:
            self.held.clear()
            self.go_on.clear()
            with ThreadPoolExecutor(1) as pool:
                late = pool.submit(task.open(1), item)
                assert self.held.wait(30)
                (outcome,) = super().map(task, [item])
                self.go_on.set()
                self.files.append((outcome.value, late.result(30)))
            yield outcome


@pytest.mark.parametrize("stage", ["upload", "put_if_absent"])
def test_a_worker_that_ends_a_shard_after_another_one_changes_nothing_and_its_file_is_collected(stage: str) -> None:
    with in_memory() as here:
        for number in range(7):
            here.put(f"{number}.jpg", f"image {number}")
        runner = Raced(stage)
        options = IndexOptions(
            source=here.life.source,
            root=here.life.root,
            recipe=RecipeOptions(recipe=here.life.recipe, source_kind="folder"),
            packing=Packing(files=3),
            lease=here.life.times,
        )
        with here.through(lambda store: Watched(store, runner.watch)):
            report = run_index(options, quiet(), runner)
        assert report.images["indexed"] == 7
        assert len(runner.files) > 1
        assert [late for _, late in runner.files] == [first for first, _ in runner.files], "the record that counts"
        winners = {first.artifact.uri for first, _ in runner.files}
        written = {entry.path for entry in here.objects.list("descriptors") if entry.path.endswith(".parquet")}
        assert (len(written), winners <= written) == (2 * len(winners), True)
        here.life.check()
        here.life.expire()
        assert {e.path for e in here.objects.list("descriptors") if e.path.endswith(".parquet")} == winners
        here.life.check()
        assert here.life.index().published is False


def replace_indexes(recipe: Any) -> Any:
    return recipe.model_copy(update={"indexes": ()})


def test_options_of_a_task_decide_how_many_shards_a_worker_on_a_cpu_takes() -> None:
    with in_memory() as here:
        recipe = build_recipe(RecipeOptions(recipe=here.life.recipe), head=None, source_kind="folder").recipe
        task = ExtractTask(root=here.life.root, location=here.life.source, recipe=recipe)
        assert (task.resources.depth, replace(task, options=ExtractOptions(overlap=False)).resources.depth) == (2, 1)
        alone = replace(task, options=ExtractOptions(device="cpu", overlap=False))
        assert [one.open(1).depth for one in (replace(task, options=ExtractOptions(device="cpu")), alone)] == [2, 1]


def test_the_limit_of_a_shard_grows_with_its_size_and_may_be_none() -> None:
    with in_memory() as here:
        recipe = build_recipe(RecipeOptions(recipe=here.life.recipe), head=None, source_kind="folder").recipe

        def limit(seconds: float, size: int) -> float:
            options = ExtractOptions(shard_seconds=seconds)
            task = ExtractTask(root=here.life.root, location=here.life.source, recipe=recipe, options=options)
            shard = Shard(id="s", uri="", bytes=size, etag="", entries=())
            # As runs send it, in the wrapping of the check that a worker sees the ROOT.
            checked: Any = RootChecked(task=task, root=here.life.root, lease="", writer="")
            assert limit_of(checked, shard) == limit_of(task, shard)
            return limit_of(task, shard).seconds

        assert [limit(3600.0, size) for size in (0, 100_000_000)] == pytest.approx([3960.0, 5060.0])
        assert limit(0.0, 100_000_000) == 0.0


def test_a_worker_asks_for_what_its_recipe_needs() -> None:
    with in_memory() as here:
        recipe = build_recipe(RecipeOptions(recipe=here.life.recipe), head=None, source_kind="folder").recipe
        task = ExtractTask(root=here.life.root, location=here.life.source, recipe=recipe)
        assert task.resources.gpu == extract_spec(recipe).gpu
        hog = replace(task, recipe=recipe.model_copy(update={"extractor": HogSpec()}))
        assert not hog.resources.gpu, "a kind without a network holds no GPU"
        weights = Artifact(uri="artifacts/x", sha256="0" * 64, bytes=100 << 20)
        pooled = replace(
            task, recipe=recipe.model_copy(update={"extractor": PooledSpec(backbone="resnet50", weights=weights)})
        )
        assert pooled.resources.gpu
        assert pooled.resources.memory - hog.resources.memory > 2 * weights.bytes
        smaller = replace(task, options=ExtractOptions(in_flight=64 << 20))
        assert task.resources.memory - smaller.resources.memory == 3 * (448 << 20), "decoded, waiting, described"


def test_images_of_a_sample_are_counted_once_and_so_are_its_rejects(tmp_path: Path) -> None:
    files = {**images(10), "bad.jpg": b"no picture"}
    source = write_files(tmp_path / "src", files)
    report = run(source, tmp_path / "root", recipe=replace(QUICK, whiten="pca", dims=4))
    assert (report.stats["images"], report.stats["rejected"], report.stats["sampled"]) == (10, 1, 10)
    assert sum(count for name, count in report.stats.items() if name.startswith("rejected:")) == 1
