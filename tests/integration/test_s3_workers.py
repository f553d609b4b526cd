"""I3 in S3: a Ray worker killed with signal 9 while source, root and records are all in the bucket."""

from __future__ import annotations

import threading
import time

import psutil
import pytest

from jobs.progress import Reporter
from jobs.runners import RunnerOptions
from jobs.verify import verify
from pipeline.core.storage import open_store
from tests.builders import images, run, tar_bytes

pytestmark = [pytest.mark.s3, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]
SHARDS, EACH = 12, 10


def kill_a_worker(root: str, killed: list[int]) -> None:
    """Wait for the first completion record, then kill one worker of this test's Ray."""
    store, deadline = open_store(root), time.monotonic() + 120
    while time.monotonic() < deadline and not [e for e in store.list("descriptors") if e.path.endswith(".json")]:
        time.sleep(0.02)
    for process in psutil.Process().children(recursive=True):
        if any("ray::_Worker" in part for part in process.cmdline()):
            process.kill()
            killed.append(process.pid)
            return


def test_i3_a_worker_killed_at_work_in_s3_costs_nothing(bucket: str) -> None:
    import ray

    source, root = f"{bucket}/images", f"{bucket}/root"
    store = open_store(source)
    for shard in range(SHARDS):
        store.write(f"{shard:02d}.tar", tar_bytes(images(EACH, start=EACH * shard)))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        killed: list[int] = []
        killer = threading.Thread(target=kill_a_worker, args=(root, killed))
        killer.start()
        report = run(source, root, runner=RunnerOptions(kind="ray", workers=2))
        killer.join()
    finally:
        ray.shutdown()
    assert len(killed) == 1
    assert (report.images["indexed"], report.exit_code) == (SHARDS * EACH, 0)
    assert verify(root, Reporter()).faults == ()
    files = [e.path for e in open_store(root).list("descriptors") if e.path.endswith(".parquet")]
    records = [e.path for e in open_store(root).list("descriptors") if e.path.endswith(".json")]
    assert len(records) == SHARDS
    assert len(files) <= SHARDS + 1, "at most the shard in flight was done twice"
    assert not run(source, root).published
