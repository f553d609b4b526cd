"""Ends a process that does not get on: for what may hang with the interpreter, so that no thread of it can tell."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager

OPEN_SECONDS = 1800.0
"""How long a worker may take to open a task: it reads weights and codebooks, and starts an accelerator."""


@contextmanager
def ending_after(seconds: float) -> Iterator[None]:
    """End this process, with the stacks of all its threads in its log, when the block takes longer."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
