"""The device to compute on, and what is said where it cannot be used."""

from __future__ import annotations

import pytest
import torch

from pipeline.core.errors import UserError, WorkerError
from pipeline.run.faults import fault_of
from pipeline.stages.device import GIVEN, choose_device, device_name, worker_device

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_cuda
def test_cuda_where_there_is_none_is_the_user_s_error_in_one_line() -> None:
    with pytest.raises(UserError, match=r"--device cuda: cannot be used: .+; use --device auto or cpu") as caught:
        choose_device("cuda")
    assert "\n" not in str(caught.value)
    assert choose_device("auto") == torch.device("cpu")


def test_a_device_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UserError, match="--device gpu: is not known; use auto, cpu, cuda"):
        choose_device("gpu")


@without_cuda
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_worker_that_cannot_use_the_gpu_it_was_given_is_no_silent_cpu(name: str) -> None:
    with pytest.raises(WorkerError, match=r"was given GPU 3 and cannot use it: .+; mend it") as caught:
        worker_device(name, {GIVEN: "3"})
    assert fault_of(caught.value) == "worker", "another node may have a driver"


def test_a_worker_computes_on_the_cpu_where_that_is_said_or_it_was_given_no_gpu() -> None:
    assert worker_device("cpu", {GIVEN: "3"}) == torch.device("cpu")
    if not torch.cuda.is_available():
        assert worker_device("auto", {GIVEN: ""}) == torch.device("cpu")
        assert worker_device("auto", {}) == torch.device("cpu")
    assert device_name(torch.device("cpu")) == "cpu"
