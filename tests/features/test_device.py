"""Lanes of devices: what of them a CPU can show. The rest is in tests/gpu."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pipeline.features.device import Busy, HostLane, Tf32, lane

CPU = torch.device("cpu")


def test_a_pass_on_a_cpu_puts_computes_and_fetches() -> None:
    host = lane(CPU)
    assert isinstance(host, HostLane)
    arrays = [np.full((2, 3), value, np.uint8) for value in (1, 2)]
    with host.running(), host.arithmetic():
        x = host.put(arrays)
        assert torch.is_inference_mode_enabled()
        one, other = host.fetch(x * 2, x.float())
    np.testing.assert_array_equal(one, 2 * np.stack(arrays))
    assert [one.dtype, other.dtype] == [np.dtype(np.uint8), np.dtype(np.float32)]
    assert host.clock is None


@dataclass(frozen=True)
class At:
    """An event of a device, at so many milliseconds."""

    time: float

    def elapsed_time(self, later: At) -> float:
        return later.time - self.time


@pytest.mark.parametrize(
    ("intervals", "seconds"),
    [
        ([(0, 1000)], 1.0),
        ([(0, 1000), (3000, 4000)], 2.0),
        ([(0, 1000), (500, 1500)], 1.5),
        ([(0, 1000), (200, 1000)], 1.0),
        ([(500, 1500), (0, 1000)], 1.0),
    ],
)
def test_what_overlaps_is_busy_once(intervals: list[tuple[float, float]], seconds: float) -> None:
    busy = Busy()
    for first, done in intervals:
        busy.add(At(first), At(done))
    assert busy.take() == pytest.approx(seconds)
    assert busy.take() == 0.0


def test_passes_that_want_the_same_arithmetic_run_side_by_side_and_others_wait() -> None:
    applied: list[bool] = []
    tf32 = Tf32(applied.append)
    both, entered, leave = threading.Barrier(3), threading.Event(), threading.Event()

    def strict() -> None:
        with tf32.allowed(False):
            both.wait(10)
            leave.wait(10)

    def loose() -> bool:
        with tf32.allowed(True):
            entered.set()
            return applied[-1]

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(strict) for _ in range(2)]
        both.wait(10)
        other = pool.submit(loose)
        assert not entered.wait(0.2), "two passes compute in strict float32"
        leave.set()
        assert other.result(10) is True
        for one in running:
            one.result(10)
    assert applied == [False, True]


def test_the_arithmetic_is_set_again_for_whoever_comes_next() -> None:
    applied: list[bool] = []
    tf32 = Tf32(applied.append)
    with pytest.raises(ValueError, match="a pass failed"), tf32.allowed(True):
        raise ValueError("a pass failed")
    with tf32.allowed(True):
        pass
    assert applied == [True, True], "other code of the process may have changed it"
