"""Whose fault an error is: of the item that was worked on, or of the process, where every later item would fail too.

A CUDA error is sticky: the context of the process is lost, and each later call repeats it. A library that cannot be
loaded stays so. What Sightline raises on purpose is about the item. Of anything else nobody can tell from one case: the
item is tried in another process, and a process that fails item after item is replaced.
"""

from __future__ import annotations

from pipeline.core.errors import SightlineError, WorkerError
from pipeline.core.limited_pool import HungError
from pipeline.core.types import Fault

STICKY_TYPES: tuple[type[BaseException], ...] = (ImportError, SystemError, HungError)
"""Raised by a process that is broken: a missing library, a broken interpreter, a device that hangs."""
STICKY_WORDS = ("cuda error", "cudnn error", "cudnn_status", "cublas_status", "cufft_status", "nccl error", "hip error")
"""How libraries that raise RuntimeErrors begin when the accelerator is lost to this process."""
ACCELERATOR, OUT_OF_MEMORY = "AcceleratorError", "OutOfMemoryError"
"""torch's classes, by name: who never computed has not imported torch."""


def fault_of(error: BaseException) -> Fault:
    """Return whose fault an error of a task's function is. Running out of GPU memory is no broken process."""
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.split(".")[0] == "torch"}
    if isinstance(error, SightlineError):
        return "worker" if isinstance(error, WorkerError) else "item"
    if OUT_OF_MEMORY in names:
        return "unknown"
    if ACCELERATOR in names or isinstance(error, STICKY_TYPES):
        return "worker"
    text = str(error).lower()
    if isinstance(error, RuntimeError) and any(word in text for word in STICKY_WORDS):
        return "worker"
    if isinstance(error, OSError) and "cannot open shared object file" in text:
        return "worker"
    return "unknown"
