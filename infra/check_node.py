"""Says whether a node can do what it was started for, before Ray starts there; standard library, torch and faiss only.

    python infra/check_node.py gpu            a GPU node: torch and faiss both see a GPU, and torch computes on it
    python infra/check_node.py --wheels gpu   an image: the wheels are those of such a node, whether or not it has a GPU

A GPU node whose driver is too old, or whose faiss is the CPU's, would otherwise describe images on its CPU, slowly and
without a word. Exit code 1 and one line say what is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from typing import Any

CUDA = "13"
"""The CUDA of the pinned wheels; the driver must be of this one or newer."""


def wrong_wheels(kind: str, torch: Any, faiss: Any) -> Iterator[str]:
    """Yield what of the installed wheels does not fit nodes of a kind, cpu or gpu."""
    has_gpu = hasattr(faiss, "StandardGpuResources")
    if kind == "cpu":
        if has_gpu:
            yield "faiss is a GPU build: install the extra cpu"
        return
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    if not built.startswith(f"CUDA {CUDA}."):
        yield f"torch is built for {built}, not for CUDA {CUDA}: install the extra gpu"
    if not has_gpu:
        yield "faiss is a CPU build: install the extra gpu"


def wrong_device(torch: Any, faiss: Any) -> Iterator[str]:
    """Yield why this node's GPU cannot be used."""
    if not torch.cuda.is_available():
        yield f"torch sees no GPU: a driver for CUDA {CUDA} (580 or newer) and a GPU given to this node are needed"
        return
    try:
        torch.zeros(1, device="cuda").add(1).item()
    except RuntimeError as error:
        yield f"torch cannot compute on the GPU ({str(error).splitlines()[0]})"
    if hasattr(faiss, "StandardGpuResources") and not faiss.get_num_gpus():
        yield "faiss sees no GPU"


def main(arguments: list[str]) -> int:
    """Print what is wrong and return 1, or return 0."""
    parser = argparse.ArgumentParser(description="Says whether a node can do what it was started for.")
    parser.add_argument("kind", choices=("cpu", "gpu"))
    parser.add_argument("--wheels", action="store_true", help="look at what is installed only, not for a GPU")
    options = parser.parse_args(arguments)
    torch, faiss = importlib.import_module("torch"), importlib.import_module("faiss")
    faults = list(wrong_wheels(options.kind, torch, faiss))
    if options.kind == "gpu" and not options.wheels:
        faults += wrong_device(torch, faiss)
    if faults:
        print(f"error: this is no {options.kind} node: {'; '.join(faults)}", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
