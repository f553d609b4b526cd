"""Whose fault an error is, and what a process does that cannot work any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from pipeline.core.errors import AccessError, PlaceError, SightlineError, UserError
from pipeline.core.limited_pool import HungError
from pipeline.core.resources import Resources
from pipeline.core.types import Fault
from pipeline.run.faults import fault_of
from pipeline.run.inline import InlineRunner


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (UserError("a.tar", "is broken"), "item"),
        (SightlineError("no such shard"), "item"),
        (ValueError("odd"), "unknown"),
        (MemoryError(), "unknown"),
        (torch.OutOfMemoryError("CUDA error: out of memory"), "unknown"),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "worker"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "worker"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "worker"),
        (RuntimeError("shapes do not match"), "unknown"),
        (ModuleNotFoundError("No module named 'timm'"), "worker"),
        (OSError("libcuda.so.1: cannot open shared object file: No such file or directory"), "worker"),
        (OSError(5, "Input/output error"), "unknown"),
        (HungError("a forward pass did not end"), "worker"),
        (TimeoutError("took longer than 3600 s (--shard-timeout)"), "unknown"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_error_is_the_items_the_process_s_or_unknown(error: BaseException, fault: Fault) -> None:
    assert fault_of(error) == fault


@dataclass(frozen=True)
class Sick:
    """Breaks at one number, and fails ever after, as a lost CUDA context does."""

    at: int
    depth: int = 1

    @property
    def resources(self) -> Resources:
        return Resources(depth=self.depth)

    def open(self, threads: int) -> Callable[[int], int]:
        broken: list[int] = []

        def call(number: int) -> int:
            if number == self.at or broken:
                broken.append(number)
                raise RuntimeError("CUDA error: device-side assert triggered")
            return number

        return call


@pytest.mark.parametrize("depth", [1, 2])
def test_a_broken_process_ends_an_inline_run_instead_of_failing_every_item(depth: int) -> None:
    outcomes = InlineRunner().map(Sick(at=3, depth=depth), range(100))
    with pytest.raises(SightlineError, match=r"this process is broken .*device-side assert"):
        assert [outcome.value for outcome in outcomes] == [0, 1, 2]


@dataclass(frozen=True)
class Refused:
    """Meets an error at one number; later ones must never be tried."""

    error: SightlineError
    depth: int = 1

    @property
    def resources(self) -> Resources:
        return Resources(depth=self.depth)

    def open(self, threads: int) -> Callable[[int], int]:
        def call(number: int) -> int:
            assert number <= 3 + self.depth, "the run has ended"
            if number == 3:
                raise self.error
            return number

        return call


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("error", [PlaceError("/scratch: cannot be written"), AccessError("expired")])
def test_an_error_that_every_item_would_meet_ends_an_inline_run(error: SightlineError, depth: int) -> None:
    outcomes = InlineRunner().map(Refused(error, depth), range(100))
    with pytest.raises(type(error), match=str(error)):
        assert [outcome.value for outcome in outcomes] == [0, 1, 2]
