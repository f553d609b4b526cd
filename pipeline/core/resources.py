"""What a worker of a task needs, as one value: declared by the task, honoured by every runner."""

from __future__ import annotations

from dataclasses import dataclass

PROCESS_BYTES = 1 << 30
"""Memory of a worker beside what its task holds: the interpreter, torch, faiss, pyarrow (measured: 0.7 to 0.9 GB)."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """gpu: a worker wants a GPU where there is one. memory: bytes of main memory that a worker takes, its process
    included; 0 reserves none. beside_gpu: bytes of it that one with a GPU takes more. depth: items that a worker is
    given at a time, each to a thread of its own, unless what it opens says otherwise.
    """

    gpu: bool = False
    memory: int = 0
    beside_gpu: int = 0
    depth: int = 1

    def memory_with(self, gpus: float) -> int:
        """Return the bytes of main memory of a worker with so many GPUs."""
        return self.memory + (self.beside_gpu if gpus and self.memory else 0)
