"""How many cores a process may use: those it may run on, and the quotas of its control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.core.threads import usable_cores


def system(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


V2 = {"proc/self/cgroup": "0::/kubepods/pod1\n"}
V1 = {"proc/self/cgroup": "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 4),
        ({**V2, "sys/fs/cgroup/kubepods/pod1/cpu.max": "max 100000\n"}, 4),
        ({**V2, "sys/fs/cgroup/kubepods/pod1/cpu.max": "250000 100000\n"}, 2),
        ({**V2, "sys/fs/cgroup/kubepods/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({**V2, "sys/fs/cgroup/kubepods/pod1/cpu.max": "50000 100000\n"}, 1),
        ({**V2, "sys/fs/cgroup/kubepods/pod1/cpu.max": "6400000 100000\n"}, 4),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        ({**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
    ids=[
        "no groups",
        "v2 without a quota",
        "v2",
        "v2, of the group around it",
        "v2 in a namespace of its own",
        "v2, half a core",
        "v2, more than there are",
        "v1",
        "v1 without a quota",
        "v1, in a namespace of its own",
    ],
)
def test_the_quota_of_the_control_group_bounds_the_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert usable_cores(system(tmp_path, files), allowed=4) == cores


def test_this_process_has_a_core() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
