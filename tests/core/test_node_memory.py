from __future__ import annotations

from pathlib import Path

from pipeline.core.node_memory import memory_available, memory_limit

KIB, MIB = 1 << 10, 1 << 20


def node(folder: Path, group: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A machine of 1 GiB with 700 MiB free; `group`: the process's line of control groups."""
    proc, cgroups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {1024 * KIB} kB\nMemFree: 5 kB\nMemAvailable: {700 * KIB} kB\n")
    (proc / "self" / "cgroup").write_text(group)
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)
    return proc, cgroups


def test_without_control_groups_it_is_the_machines(tmp_path: Path) -> None:
    place = node(tmp_path, "0::/\n", {})
    assert (memory_limit(*place), memory_available(*place)) == (1024 * MIB, 700 * MIB)


def test_the_narrowest_group_above_a_process_counts(tmp_path: Path) -> None:
    files = {
        "a/memory.max": f"{300 * MIB}\n",
        "a/memory.current": f"{250 * MIB}\n",
        "a/memory.stat": f"anon 5\ninactive_file {100 * MIB}\n",
        "a/b/memory.max": "max\n",
        "a/b/memory.current": f"{5 * MIB}\n",
    }
    place = node(tmp_path, "0::/a/b\n", files)
    assert (memory_limit(*place), memory_available(*place)) == (300 * MIB, 150 * MIB)


def test_a_container_that_sees_its_own_group_at_the_root(tmp_path: Path) -> None:
    files = {"memory.max": f"{200 * MIB}", "memory.current": f"{400 * MIB}", "memory.stat": "inactive_file 0\n"}
    place = node(tmp_path, "0::/kubepods/pod1/../x\n", files)
    assert (memory_limit(*place), memory_available(*place)) == (200 * MIB, 0)


def test_groups_of_the_first_version(tmp_path: Path) -> None:
    files = {
        "memory/docker/x/memory.limit_in_bytes": f"{128 * MIB}\n",
        "memory/docker/x/memory.usage_in_bytes": f"{28 * MIB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    place = node(tmp_path, "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n", files)
    assert (memory_limit(*place), memory_available(*place)) == (128 * MIB, 100 * MIB)


def test_this_machine_has_some() -> None:
    assert 0 < memory_available() <= memory_limit()
