"""Numbers as people read them."""

from __future__ import annotations


def human_bytes(count: float) -> str:
    """Return a size in the unit that keeps it short."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
