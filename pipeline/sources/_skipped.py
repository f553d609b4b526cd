"""What a source passes over, counted by suffix: people see at a glance which formats are not read."""

from __future__ import annotations

from collections import Counter

from pipeline.sources import is_system_file

SYSTEM, NONE, OTHER = "system", "no suffix", "other"
_KINDS = 100
"""Suffixes that are counted one by one: names of files may end in anything."""
_LONGEST = 12


def skipped_as(path: str) -> str:
    """Return what a file is counted as: its suffix in small letters, "system" or "no suffix"."""
    if is_system_file(path):
        return SYSTEM
    stem, dot, suffix = path.rpartition("/")[2].lower().rpartition(".")
    if not stem or not dot:
        return NONE
    return f".{suffix}" if len(suffix) <= _LONGEST else OTHER


class Skipped:
    """Counts of files by `skipped_as`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, path: str) -> None:
        """Count a file."""
        kind = skipped_as(path)
        self.counts[kind if kind in self.counts or len(self.counts) < _KINDS else OTHER] += 1
