"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping


def human_bytes(count: float) -> str:
    """Return a size in the unit that keeps it short."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def skipped_words(total: int, by: Mapping[str, int]) -> str:
    """Return how many files were skipped, and the commonest kinds: "9 skipped (.heic 8, system 1)"."""
    commonest = sorted(by.items(), key=lambda item: (-item[1], item[0]))[:5]
    rest = sum(by.values()) - sum(count for _, count in commonest)
    kinds = [f"{kind} {count}" for kind, count in [*commonest, *([("others", rest)] if rest else [])]]
    return f"{total} skipped" + (f" ({', '.join(kinds)})" if kinds else "")
