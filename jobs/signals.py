"""How a command ends that is asked to: SIGTERM (Kubernetes, Slurm, spot machines) and SIGHUP as Ctrl-C.

The default of both ends a process at once: leases stay until they lapse, temporary files for ever. As a
KeyboardInterrupt they pass through every `finally`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Turn the first of these signals into a KeyboardInterrupt while the block runs; later ones do not disturb the end.

    A signal that the process was started to ignore (nohup) stays ignored. In other threads nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}

    def end(number: int, _: FrameType | None) -> None:
        for other in ENDING:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
