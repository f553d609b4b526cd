"""Passes that recur are recorded once and replayed: on a GPU as CUDA graphs, all kernels of a pass by one launch.

A recording belongs to one shape of input, holds the memory of its pass, and its result is overwritten by the next
replay. So few are kept, of shapes that come again and again; everything else is computed as it comes.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("sightline")

Function = Callable[[Tensor], Tensor]
AFTER, MOST = 3, 12
"""A shape is recorded when it comes for the third time; so many recordings are kept."""


class Replays:
    """Recordings by shape of input. Thread-safe: one is replayed at a time, results are copies.

    record: makes of a function and an input what gives the function's result for inputs of that shape; a RuntimeError
    says that it cannot be done, which ends all recording.
    """

    def __init__(self, record: Callable[[Function, Tensor], Function], *, after: int = AFTER, most: int = MOST) -> None:
        self._record, self._after, self._most = record, after, most
        self._recordings: OrderedDict[tuple[int, ...], Function] = OrderedDict()
        self._seen: dict[tuple[int, ...], int] = {}
        self._refused = False
        self._lock = threading.Lock()

    def __call__(self, function: Function, x: Tensor) -> Tensor:
        """Return function(x), replayed if its shape has been recorded. Always with the same function."""
        key = tuple(x.shape)
        with self._lock:
            recording = self._recording(key, function, x)
            if recording is not None:
                return recording(x).clone()
        return function(x)

    def _recording(self, key: tuple[int, ...], function: Function, x: Tensor) -> Function | None:
        if key in self._recordings:
            self._recordings.move_to_end(key)
            return self._recordings[key]
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._refused or self._seen[key] < self._after:
            return None
        try:
            self._recordings[key] = self._record(function, x)
        except RuntimeError as error:
            self._refused = True
            log.warning("passes are not recorded for replay: %s", str(error).splitlines()[0][:160])
            return None
        while len(self._recordings) > self._most:
            # It has to come as often again before it is recorded again.
            del self._seen[self._recordings.popitem(last=False)[0]]
        return self._recordings[key]


class CudaGraphs:
    """Records what a function launches on a CUDA device as graphs that share their memory. See `Replays`."""

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = torch.cuda.graph_pool_handle()

    def __call__(self, function: Function, x: Tensor) -> Function:
        """Run the function once, so that plans and constants are made, and then record it."""
        current, given = torch.cuda.current_stream(), x.clone()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            function(given)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on launching and allocating meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            made = function(given)
        current.wait_stream(self._stream)

        def replay(x: Tensor) -> Tensor:
            given.copy_(x)
            graph.replay()
            return made

        return replay
