"""Memory of forward passes: how many images go into one, and what happens when there was not enough for them.

A pass that runs out of memory is done again by fewer images at a time, down to one, which is then left out; later
passes of images of that shape begin at the size that worked. What else goes wrong in a pass is passed on. Above all
errors of CUDA are: after one that sticks the process is of no use, and only another one can go on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger("sightline")

PHRASES = ("defaultcpuallocator: ", "out of memory", "not enough memory", "insufficient memory", "_alloc_failed")
"""What errors without a type of their own say: PyTorch on a CPU, CUDA's own allocations, OpenCV, cuBLAS and cuDNN."""
PASSES_ON_GPU = 2
"""One copies and launches while the other computes."""
PIXELS_PER_PASS = {"cpu": 1 << 17, "cuda": 1 << 23}
"""Pixels that a forward pass is filled up to. On a CPU maps of one photograph leave the caches as it is: measured, one
at a time is quickest, and only small images gain from company."""
MOST_PER_PASS = 64
BYTES_PER_PIXEL = 1024
"""Device memory of a pass per pixel of its images: three maps of 64 channels at full size in float32 (VGG, the most of
the known backbones), and room for what cuDNN works in."""


class PassSizes:
    """How many images of a shape go into a forward pass. Thread-safe.

    batch: so many, whatever their size; 0 chooses by pixels. free: bytes of device memory that are free, if known.
    """

    def __init__(self, device: torch.device, batch: int = 0, free: int | None = None) -> None:
        self._batch = batch
        self._pixels = PIXELS_PER_PASS.get(device.type, PIXELS_PER_PASS["cuda"])
        if free is not None:
            self._pixels = max(1, min(self._pixels, free // (PASSES_ON_GPU * BYTES_PER_PIXEL)))
        self._most: dict[tuple[int, ...], int] = {}
        self._lock = threading.Lock()

    def of(self, shape: tuple[int, ...]) -> int:
        """Return how many images of pixel shape (H, W, 3) a full pass has, at least 1."""
        chosen = self._batch or min(MOST_PER_PASS, self._pixels // (shape[0] * shape[1]))
        return max(1, min(chosen, self._most.get(shape, chosen)))

    def too_many(self, shape: tuple[int, ...], count: int) -> None:
        """Note that memory did not suffice for a pass of so many images of a shape; the log hears the first time."""
        with self._lock:
            first = not self._most
            self._most[shape] = max(1, min(count // 2, self._most.get(shape, count)))
        if first:
            log.warning(
                "not enough memory for a forward pass of %d image(s) of %dx%d pixels: passes of this size take %d from "
                "now on; the same is done for other sizes without another line",
                *(count, shape[1], shape[0], self._most[shape]),
            )


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes of memory that are free on a CUDA device; None for other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def is_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, of the host or of a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and any(phrase in str(error).lower() for phrase in PHRASES)


def halved(
    function: Callable[[Sequence[T]], list[R]], items: Sequence[T], failed: Callable[[int], None] = lambda _: None
) -> list[R | None]:
    """Return function(items), one result per item, by halves where memory does not suffice; None for an item alone.

    failed: hears the number of items of every try that had not enough memory.
    """
    try:
        return list(function(items))
    except Exception as error:
        if not is_memory(error):
            raise
        # The traceback holds the tensors of the pass.
        error.__traceback__ = None
    failed(len(items))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(items) == 1:
        return [None]
    half = len(items) // 2
    return [*halved(function, items[:half], failed), *halved(function, items[half:], failed)]
