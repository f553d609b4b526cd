"""Which tasks ask for a GPU, and what is told of where training and filling were computed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.build_indexes import BuildOptions, build_indexes
from jobs.index_report import index_json
from jobs.progress import Reporter
from pipeline.core.errors import UserError
from pipeline.core.types import Artifact, DescriptorFile, IndexShard, Outcome
from pipeline.extract.histogram import Spec as HistogramSpec
from pipeline.index import IndexSpec
from pipeline.index.flat import Spec as FlatSpec
from pipeline.index.hnsw import Spec as HnswSpec
from pipeline.index.ivfpq import Spec as IvfPqSpec
from pipeline.publish import manifests
from pipeline.publish.lists import Lists
from pipeline.publish.recipe import Recipe
from pipeline.run.inline import InlineRunner
from pipeline.sources.folder import Spec as FolderSpec
from pipeline.stages.computed import Computed, rows_on_gpu, summed
from pipeline.stages.fill_index import Filled, FillItem, FillTask
from pipeline.stages.train_index import Trained, TrainTask
from tests.builders import QUICK, images, run, write_files

BOTH = replace(QUICK, indexes=("flat", "ivfpq"))
ARTIFACT = Artifact(uri="artifacts/x", sha256="0" * 64, bytes=1)


def collection(rows: int, per_file: int = 1_000_000, dim: int = 128) -> Lists:
    counts = {"rejected": 0, "duplicates": 0}
    files = [
        DescriptorFile(
            shard_id=f"{n:05d}",
            writer="w",
            artifact=ARTIFACT,
            dim=dim,
            dtype="float16",
            rows=many,
            indexed=many,
            **counts,
        )
        for n, many in enumerate(min(per_file, rows - start) for start in range(0, rows, per_file))
    ]
    return Lists(descriptors=manifests.descriptor_table(files))


def recipe(*kinds: IndexSpec) -> Recipe:
    return Recipe(source=FolderSpec(), extractor=HistogramSpec(), indexes=kinds)


@dataclass
class PretendingRunner:
    """Carries nothing out; `tasks` are those it was given, with the kinds of their items."""

    tasks: list[tuple[Any, list[str]]] = field(default_factory=list)
    name: str = "pretending"

    def map(self, task: Any, items: Iterable[Any]) -> Iterator[Outcome[Any, Any]]:
        mine: list[str] = []
        self.tasks.append((task, mine))
        for item in items:
            kind = item.kind if isinstance(task, FillTask) else item.spec.kind
            mine.append(kind)
            value: Any = Trained(artifact=ARTIFACT)
            if isinstance(task, FillTask):
                files = tuple(file.id for file in item.files)
                rows = sum(file.rows for file in item.files)
                value = Filled(
                    shard=IndexShard(
                        kind=kind, fingerprint="f", trained=ARTIFACT, artifact=ARTIFACT, rows=rows, files=files
                    )
                )
            yield Outcome(item=item, value=value)

    def room(self, task: Any) -> int:
        return 1

    def progress(self, phase: str, pending: int, seconds: float) -> None: ...

    def close(self) -> None: ...


def asked(rows: int, device: str, *kinds: IndexSpec) -> dict[tuple[str, str], tuple[bool, str]]:
    """Return (train or fill, kind) -> whether its worker holds a GPU, and on what device it computes."""
    runner = PretendingRunner()
    options = BuildOptions(root="unused", device=device)
    shards = build_indexes(options, recipe(*kinds), collection(rows), runner, Reporter(io.StringIO()))
    assert shards.num_rows == len(kinds) * -(-rows // 2_000_000)
    return {
        ("train" if isinstance(task, TrainTask) else "fill", kind): (task.resources.gpu, task.device)
        for task, kinds in runner.tasks
        for kind in kinds
    }


def test_a_gpu_is_asked_for_by_what_a_training_and_a_fill_compute() -> None:
    cpu = (False, "cpu")
    large = asked(10**7, "auto", FlatSpec(), IvfPqSpec())
    assert large["train", "ivfpq"] == large["fill", "ivfpq"] == (True, "auto")
    assert large["train", "flat"] == large["fill", "flat"] == cpu
    assert set(asked(5_000, "auto", FlatSpec(), IvfPqSpec()).values()) == {cpu}
    assert set(asked(10**7, "cpu", FlatSpec(), IvfPqSpec()).values()) == {cpu}
    stated = asked(5_000, "cuda", FlatSpec(), IvfPqSpec())
    assert stated["train", "ivfpq"] == stated["fill", "ivfpq"] == (True, "cuda")
    assert stated["fill", "flat"] == cpu
    assert asked(10**7, "auto", IvfPqSpec(nlist=64))["fill", "ivfpq"] == cpu, "reading takes longer than 64 distances"


def test_a_graph_by_cagra_always_asks_for_a_gpu_and_others_never() -> None:
    assert asked(5_000, "auto", HnswSpec(build="cagra"))["fill", "hnsw"] == (True, "auto")
    assert asked(10**7, "auto", HnswSpec())["fill", "hnsw"] == (False, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    ("device", "spec", "words"),
    [
        ("cuda", IvfPqSpec(), r"--device cuda: .*install"),
        ("auto", HnswSpec(build="cagra"), "hnsw build cagra: needs a GPU"),
        ("cpu", HnswSpec(build="cagra"), "hnsw build cagra: needs a GPU"),
    ],
)
def test_what_needs_a_gpu_is_refused_in_one_line_where_there_is_none(device: str, spec: IndexSpec, words: str) -> None:
    task = FillTask(root="unused", recipe=recipe(spec), kinds=(spec.kind,), device=device)
    with pytest.raises(UserError, match=words):
        next(InlineRunner().map(task, [FillItem(kind=spec.kind, trained=ARTIFACT, files=())]))


def test_a_report_says_what_was_computed_where(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(30))
    report = run(source, tmp_path / "root", recipe=BOTH)
    told = index_json(report)["computed"]
    assert [(part["phase"], part["kind"], part["device"]) for part in told] == [
        ("train", "flat", "cpu"),
        ("train", "ivfpq", "cpu"),
        ("fill", "flat", "cpu"),
        ("fill", "ivfpq", "cpu"),
    ]
    assert told[1]["multiply_adds"] > 0
    assert told[3]["rows"] == 30
    assert told[3]["multiply_adds"] >= 30 * 257
    again = index_json(run(source, tmp_path / "root", recipe=BOTH))
    assert again["computed"] == []


def test_devices_are_told_apart_and_sums_are_not() -> None:
    def part(device: str) -> Computed:
        return Computed(phase="fill", kind="ivfpq", device=device, rows=10, multiply_adds=5.0, seconds=1.0)

    sums = summed([part("cpu"), part("NVIDIA L4"), part("cpu")])
    assert [(one.device, one.rows, one.multiply_adds, one.seconds) for one in sums] == [
        ("cpu", 20, 10.0, 2.0),
        ("NVIDIA L4", 10, 5.0, 1.0),
    ]
    assert [one.on_gpu for one in sums] == [False, True]
    assert rows_on_gpu(sums) == {"fill_rows_on_gpu": 10}
