"""Where networks compute: arrays in, arrays out, and on a GPU the streams and copies between. All of CUDA is in here.

A pass runs inside `running`: it puts its pixels on the device, computes within `arithmetic`, and fetches what it made.
On a GPU pixels go through pinned slabs and a copy stream, and wait for nobody but a free slab; kernels of all threads
run in one compute stream, so that nothing between `put` and `fetch` waits for the device. `fetch` waits for the pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.features.replay import CudaGraphs, Replays

SLABS = 3
"""Pinned buffers of a lane: two threads fill one each while a third is being copied."""


class Lane(Protocol):
    """A device as an extractor uses it; thread-safe."""

    def running(self) -> AbstractContextManager[None]:
        """Be in a pass: no gradients, and the device's streams."""
        ...

    def arithmetic(self) -> AbstractContextManager[None]:
        """Compute with float32 as the recipe has it; on a GPU its convolutions and products may be in TF32."""
        ...

    def put(self, arrays: Sequence[npt.NDArray[Any]]) -> Tensor:
        """Return arrays of equal shape and type stacked on the device, to be used in this pass."""
        ...

    def fetch(self, *tensors: Tensor) -> list[npt.NDArray[Any]]:
        """Return what this pass made of them, on the host; waits until the device has made it."""
        ...

    def call(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return function(x) of what was put; always the same function, which neither puts nor fetches anything."""
        ...

    def use_graphs(self) -> None:
        """From now on, replay calls that recur as one launch, where the device can."""
        ...

    @property
    def clock(self) -> Callable[[], float] | None:
        """Gives the seconds for which the device has computed passes since the last time; None: the caller's time."""
        ...


def lane(device: torch.device, *, tf32: bool = False) -> Lane:
    """Return the lane of a device. tf32: float32 may be computed in TF32, where the device has it."""
    return CudaLane(device, tf32=tf32) if device.type == "cuda" else HostLane(device)


class HostLane:
    """A lane of the CPU, or of a device without streams. See `Lane`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def running(self) -> AbstractContextManager[None]:
        """No gradients."""
        return torch.inference_mode()

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """A CPU has one float32."""
        yield

    def put(self, arrays: Sequence[npt.NDArray[Any]]) -> Tensor:
        """Stack."""
        return torch.from_numpy(np.stack(arrays)).to(self._device)

    def fetch(self, *tensors: Tensor) -> list[npt.NDArray[Any]]:
        """They are here."""
        return [tensor.cpu().numpy() for tensor in tensors]

    def call(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Call."""
        return function(x)

    def use_graphs(self) -> None:
        """There is nothing to launch."""

    @property
    def clock(self) -> None:
        """A pass takes the caller's own time."""
        return


class CudaLane:
    """A lane of a CUDA device. See `Lane`."""

    def __init__(self, device: torch.device, *, tf32: bool = False) -> None:
        self._device, self._tf32 = device, tf32
        self._compute, self._copies = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
        self._slabs: SimpleQueue[_Slab] = SimpleQueue()
        for _ in range(SLABS):
            self._slabs.put(_Slab())
        self._replays: Replays | None = None
        self._busy = Busy()
        self._pass = threading.local()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be on the compute stream, after what was done to the weights on the default one."""
        self._compute.wait_stream(torch.cuda.default_stream(self._device))
        self._pass.first = None
        with torch.inference_mode(), torch.cuda.device(self._device), torch.cuda.stream(self._compute):
            yield

    def arithmetic(self) -> AbstractContextManager[None]:
        """See `Tf32`."""
        return TF32.allowed(self._tf32)

    def put(self, arrays: Sequence[npt.NDArray[Any]]) -> Tensor:
        """Stack in a pinned slab and copy beside the passes under way."""
        shape, dtype = (len(arrays), *arrays[0].shape), arrays[0].dtype
        slab = self._slabs.get()
        try:
            pinned = slab.of(int(np.prod(shape)) * dtype.itemsize)
            np.stack(arrays, out=pinned.numpy().view(dtype).reshape(shape))
            with torch.cuda.stream(self._copies):
                on_device = torch.empty(pinned.shape, dtype=torch.uint8, device=self._device)
                on_device.copy_(pinned, non_blocking=True)
                slab.copied.record(self._copies)
            self._compute.wait_event(slab.copied)
        finally:
            self._slabs.put(slab)
        on_device.record_stream(self._compute)
        if self._pass.first is None:
            self._pass.first = _event(enable_timing=True)
            self._pass.first.record(self._compute)
        return on_device.view(_dtype(dtype)).view(shape)

    def fetch(self, *tensors: Tensor) -> list[npt.NDArray[Any]]:
        """Copy to pinned memory behind the kernels of the pass, and sleep until that is done."""
        pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for here, tensor in zip(pinned, tensors, strict=True):
            here.copy_(tensor, non_blocking=True)
        done = _event(enable_timing=True, blocking=True)
        done.record(self._compute)
        # Waits for this pass alone, where a stream or the device would be waited for with all that others have queued.
        done.synchronize()
        if self._pass.first is not None:
            self._busy.add(self._pass.first, done)
            self._pass.first = None
        return [here.numpy().copy() for here in pinned]

    def call(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Launch what the function launches, or a graph of it."""
        return function(x) if self._replays is None else self._replays(function, x)

    def use_graphs(self) -> None:
        """See replay.py."""
        self._replays = Replays(CudaGraphs(self._device))

    @property
    def clock(self) -> Callable[[], float]:
        """By events of the compute stream: from the first kernel of a pass to its last, what overlaps once."""
        return self._busy.take


def _event(**settings: bool) -> torch.cuda.Event:
    return torch.cuda.Event(**settings)  # type: ignore[no-untyped-call]


def _dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


class _Slab:
    """A pinned buffer and the event after which it may be filled again."""

    def __init__(self) -> None:
        self.copied = _event(blocking=True)
        self._buffer: Tensor | None = None

    def of(self, size: int) -> Tensor:
        """Return so many bytes of it, once the last copy out of it has ended."""
        self.copied.synchronize()
        if self._buffer is None or len(self._buffer) < size:
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return self._buffer[:size]


class Busy:
    """For how long at least one of some intervals was open, by the events at their ends. Thread-safe."""

    def __init__(self) -> None:
        self._last: Any = None
        self._seconds = 0.0
        self._lock = threading.Lock()

    def add(self, first: Any, done: Any) -> None:
        """Add an interval: two events whose times are known, with `elapsed_time` in milliseconds."""
        with self._lock:
            took = first.elapsed_time(done)
            # Between neighbours, as times of one event are told in 24 bits: after hours they would be coarse.
            since = took if self._last is None else self._last.elapsed_time(done)
            if since > 0:
                self._seconds += min(took, since) / 1000
                self._last = done

    def take(self) -> float:
        """Return the seconds since the last time."""
        with self._lock:
            taken, self._seconds = self._seconds, 0.0
            return taken


class Tf32:
    """Whether float32 may be computed in TF32: one setting of the process, read when a kernel is launched.

    Blocks that want the same run side by side; others wait. allow: applies the setting.
    """

    def __init__(self, allow: Callable[[bool], None]) -> None:
        self._allow = allow
        self._allowed: bool | None = None
        self._inside = 0
        self._changed = threading.Condition()

    @contextmanager
    def allowed(self, wanted: bool) -> Iterator[None]:
        """Launch kernels with the setting; not to be nested."""
        with self._changed:
            self._changed.wait_for(lambda: not self._inside or self._allowed == wanted)
            if not self._inside:
                # Other code of the process may have set it meanwhile.
                self._allow(wanted)
                self._allowed = wanted
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()


def _allow_tf32(allowed: bool) -> None:
    # torch's default is True for convolutions and False for products. The newer fp32_precision settings leave the old
    # flag as it was, and what still reads that raises an error.
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


TF32 = Tf32(_allow_tf32)
