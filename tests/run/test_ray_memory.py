"""Ray's memory monitor kills a worker: one worker and one attempt are lost, not the job."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pipeline.core.resources import Resources

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]
ROOM = 2 << 30


@dataclass(frozen=True)
class Hungry:
    """Takes more memory than there may be in use, the first time it meets item 3."""

    folder: str
    resources = Resources()

    def open(self, threads: int) -> Callable[[int], int]:
        def call(number: int) -> int:
            marker = Path(self.folder) / "killed"
            if number == 3 and not marker.exists():
                marker.touch()
                taken = [bytearray(os.urandom(1 << 20)) * 256 for _ in range(2 * ROOM >> 28)]
                time.sleep(30)
                return len(taken)
            return number

        return call


def test_a_worker_killed_for_its_memory_is_replaced_and_its_item_is_done_by_another(tmp_path: Path) -> None:
    import ray

    from pipeline.run.ray import RayOptions, RayRunner

    memory = psutil.virtual_memory()
    if memory.available < 3 * ROOM:
        pytest.skip("too little memory is free to take some and be killed for it")
    threshold = (memory.total - memory.available + ROOM) / memory.total
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    settings = {"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 100}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _system_config=settings)
    try:
        outcomes = {o.item: o for o in RayRunner(RayOptions(workers=2)).map(Hungry(str(tmp_path)), range(60))}
    finally:
        ray.shutdown()
    assert sorted(outcomes) == list(range(60))
    assert [outcome.error for outcome in outcomes.values() if outcome.value is None] == []
    assert outcomes[3].attempts >= 2
    assert sum(outcome.attempts > 1 for outcome in outcomes.values()) <= 3
