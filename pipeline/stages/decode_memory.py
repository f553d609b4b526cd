"""How much memory a worker's decoding may take at a time: a share of the node's, as large as its share of the cores."""

from __future__ import annotations

import os
from collections.abc import Callable

from pipeline.core.node_memory import memory_available, memory_limit
from pipeline.core.types import Image, Reject
from pipeline.decode import Decoded
from pipeline.stages.repeats import Repeat
from pipeline.table import ImageRow

OF_LIMIT, OF_AVAILABLE = 4, 2
"""A quarter of what the processes of a node may use, and no more than half of what is free when a worker starts."""
LEAST = 256 << 20

Prepared = tuple[ImageRow, int, Decoded] | Reject | Repeat


def decode_budget(
    threads: int,
    cores: int = 0,
    *,
    limit: Callable[[], int] = memory_limit,
    available: Callable[[], int] = memory_available,
) -> int:
    """Return bytes for a worker that decodes with so many threads of a node of so many cores; 0: those it may use."""
    cores = cores or len(os.sched_getaffinity(0))
    share = min(limit() // OF_LIMIT, available() // OF_AVAILABLE) * min(threads, cores) // cores
    return max(LEAST, share)


def weight(item: Image | Reject | Repeat, weigh: Callable[[bytes], int]) -> int:
    """Return about how many bytes it takes to prepare an item, its encoded bytes included."""
    return len(item.data) + weigh(item.data) if isinstance(item, Image) else 0


def held(item: Prepared) -> int:
    """Return the bytes that an item takes once it is prepared: its pixels, resized."""
    return item[2].pixels.nbytes if isinstance(item, tuple) else 0
