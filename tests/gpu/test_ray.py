"""Ray actors pinned to GPUs: a worker sees the card it was given and extracts on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from jobs.runners import RunnerOptions
from pipeline.core.resources import Resources
from pipeline.stages.describe import ExtractOptions
from pipeline.table import DescriptorReader
from tests.builders import QUICK, images, run, write_files

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Seen:
    """Says which cards its worker sees, and that it can compute there."""

    resources = Resources(gpu=True)

    def open(self, threads: int) -> Callable[[int], tuple[str, int, float]]:
        def call(number: int) -> tuple[str, int, float]:
            made = torch.full((4,), float(number), device="cuda").sum()
            return os.environ.get("CUDA_VISIBLE_DEVICES", ""), torch.cuda.device_count(), float(made)

        return call


def test_a_worker_sees_the_card_it_was_given_and_no_other(cluster: None) -> None:
    from pipeline.run.ray import RayOptions, RayRunner

    runner = RayRunner(RayOptions())
    try:
        outcomes = list(runner.map(Seen(), range(8)))
    finally:
        runner.close()
    assert [outcome.error for outcome in outcomes] == [None] * 8
    values = {outcome.item: outcome.value for outcome in outcomes if outcome.value is not None}
    assert {number: value[2] for number, value in values.items()} == {number: 4.0 * number for number in range(8)}
    assert {value[1] for value in values.values()} == {1}
    assert len({value[0] for value in values.values()}) <= torch.cuda.device_count()


def test_workers_on_cards_index_what_the_cpu_indexes(cluster: None, tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(24))
    found = []
    for name, device, runner in (("cpu", "cpu", RunnerOptions()), ("gpu", "auto", RunnerOptions(kind="ray"))):
        run(source, tmp_path / name, recipe=QUICK, extract=ExtractOptions(device=device), runner=runner)
        files = sorted((tmp_path / name / "descriptors").rglob("*.parquet"))
        readers = [DescriptorReader(path) for path in files if ".rejects." not in path.name]
        found.append({key: vector for one in readers for key, vector in zip(one.keys(), one.vectors(), strict=True)})
    assert found[0].keys() == found[1].keys()
    # They are stored as float16.
    assert min(float(vector @ found[1][key]) for key, vector in found[0].items()) > 0.999
