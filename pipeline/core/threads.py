"""Threads: how many cores this process may use, and how many threads native libraries use for the length of a call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


def usable_cores(system: Path = Path("/"), allowed: int = 0) -> int:
    """Return how many cores this process may keep busy: those it may run on, or the quota of its control group.

    A container that is limited to 4 cores of 64 sees 64; 64 threads would share the time of 4, and wait. At least 1.
    system: the root of the file system, where /proc and /sys are. allowed: how many it may run on, if that is known.
    """
    if not allowed:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([float(allowed), *_quotas(system)])))


def _quotas(system: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of this process's control groups and of the groups around them (versions 1 and 2)."""
    for line in _text(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        inside = path.strip("/").split("/") if path.strip("/") else []
        for depth in range(len(inside) + 1):
            below = "/".join(inside[:depth])
            if not controllers:
                yield from _quota(_text(system / "sys/fs/cgroup" / below / "cpu.max").split())
            elif "cpu" in controllers.split(","):
                group = system / "sys/fs/cgroup/cpu" / below
                yield from _quota([_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")])


def _quota(words: list[str]) -> Iterator[float]:
    """Yield quota / period, of two numbers; nothing where either is missing or the quota is none ("max", -1)."""
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
        yield int(words[0]) / int(words[1])


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def limited(function: Callable[[T], R], threads: int) -> Callable[[T], R]:
    """Return a function whose calls use so many threads, more or fewer than the process would by itself.

    Ray gives a worker with one CPU one thread, whatever its machine has; the limit belongs to the calling thread, so
    it is set anew in each call.
    """

    def call(item: T) -> R:
        with threadpool_limits(threads):
            return function(item)

    return call
