"""How much memory this process may use: the machine's, or what its control groups allow. Linux; else the machine's.

Nothing is decided here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def memory_limit(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Return the bytes that this process and those beside it may use in all."""
    return min([_total(proc), *(limit for folder, name in _limits(proc, cgroups) for limit in _number(folder / name))])


def memory_available(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Return about how many bytes of `memory_limit` are free now, caches that can be dropped included."""
    free = [_field(proc / "meminfo", "MemAvailable:") * 1024 or _total(proc)]
    for folder, name in _limits(proc, cgroups):
        usage = "memory.current" if name == "memory.max" else "memory.usage_in_bytes"
        for limit in _number(folder / name):
            used = sum(_number(folder / usage)) - _field(folder / "memory.stat", "inactive_file")
            free.append(max(0, limit - max(0, used)))
    return min(free)


def _total(proc: Path) -> int:
    stated = _field(proc / "meminfo", "MemTotal:") * 1024
    return stated or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits(proc: Path, cgroups: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders of this process's control groups, up to the root, and the file that has their limit.

    In a container the path may be that of the host, and its own group lies at the root.
    """
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        base, name = (cgroups / "memory", "memory.limit_in_bytes") if kinds else (cgroups, "memory.max")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for count in range(len(parts), -1, -1):
            yield base.joinpath(*parts[:count]), name


def _number(path: Path) -> list[int]:
    """Return the number in a file, or nothing: "max", or no such file."""
    text = _text(path).strip()
    return [int(text)] if text.isdigit() else []


def _field(path: Path, name: str) -> int:
    """Return the number after a name in a file of such lines, 0 where there is none."""
    lines = (line.split() for line in _text(path).splitlines())
    return next((int(words[1]) for words in lines if len(words) > 1 and words[0] == name), 0)


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""
