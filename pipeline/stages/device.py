"""The device to compute on: chosen, checked where a worker was given a GPU, and named."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from pipeline.core.errors import UserError, WorkerError

DEVICES = ("auto", "cpu", "cuda")
GIVEN = "CUDA_VISIBLE_DEVICES"
"""The GPUs that a process is given, by which Ray pins its workers; "" gives none."""


def choose_device(name: str) -> torch.device:
    """Return the device to compute on; "auto" takes the GPU that this process may see, if there is one.

    A UserError for "cuda" where there is none, and for other names.
    """
    if name.split(":")[0] not in DEVICES:
        raise UserError(f"--device {name}", "is not known", f"use {', '.join(DEVICES)}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not torch.cuda.is_available():
        raise UserError(f"--device {name}", f"cannot be used: {trouble()}", "use --device auto or cpu")
    return torch.device(name)


def worker_device(name: str, environment: Mapping[str, str] = os.environ) -> torch.device:
    """Return the device of a worker; a WorkerError where it was given a GPU and cannot use it.

    It would hold the GPU and compute on the CPU, many times as slowly, and nobody would know. Tests of pinned workers
    on machines without CUDA say that they want that, by "cpu".
    """
    if name != "cpu" and environment.get(GIVEN, "") not in ("", "-1") and not torch.cuda.is_available():
        given = environment[GIVEN]
        raise WorkerError(
            f"a worker was given GPU {given} and cannot use it: {trouble()}; mend it, or choose --device cpu or "
            "--gpus-per-worker 0"
        )
    return choose_device(name)


def trouble() -> str:
    """Return why CUDA cannot be used by this process, in one line; "" where it can."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        # The first sentence says what is wrong, the others where drivers are to be had.
        return " ".join(str(error).split()).split(". ")[0].rstrip(".")
    return "" if torch.cuda.device_count() else "no GPU is visible to this process"


def device_name(device: torch.device) -> str:
    """Return what a device is called in reports: "cpu", or "cuda" and the card's own name."""
    return f"{device.type} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
