"""Forward passes that run out of memory: fewer images at a time, down to one, which is then left out.

What else goes wrong in a pass is passed on. Above all errors of CUDA are: after one that sticks the process is of no
use, and only another one can go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

PHRASES = ("defaultcpuallocator: ", "out of memory", "not enough memory", "insufficient memory", "_alloc_failed")
"""What errors without a type of their own say: PyTorch on a CPU, CUDA's own allocations, OpenCV, cuBLAS and cuDNN."""


def is_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, of the host or of a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and any(phrase in str(error).lower() for phrase in PHRASES)


def halved(function: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R | None]:
    """Return function(items), one result per item, by halves where memory does not suffice; None for an item alone."""
    try:
        return list(function(items))
    except Exception as error:
        if not is_memory(error):
            raise
        # The traceback holds the tensors of the pass.
        error.__traceback__ = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(items) == 1:
        return [None]
    half = len(items) // 2
    return [*halved(function, items[:half]), *halved(function, items[half:])]
