"""Recall of an approximate index: how much of the exact result it finds."""

from __future__ import annotations

from collections.abc import Sequence


def ann_recall(found: Sequence[Sequence[str]], exact: Sequence[Sequence[str]], k: int) -> float:
    """Mean share of the exact top k that is among the found top k; queries whose exact list is empty do not count."""
    shares = [
        len(set(one[:k]) & set(other[:k])) / len(set(other[:k]))
        for one, other in zip(found, exact, strict=True)
        if other
    ]
    return sum(shares) / len(shares) if shares else float("nan")
