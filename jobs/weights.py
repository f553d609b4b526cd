"""Where weights come from: a torchvision name, a file or URI, a checkpoint, or a seed that was asked for by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save as save_safetensors
from torch import Tensor

from pipeline.checkpoints import Checkpoint, read_checkpoint
from pipeline.core import staging
from pipeline.core.errors import NotFoundError, UserError
from pipeline.core.names import RANDOM_WEIGHTS, public_url
from pipeline.core.storage import split_location
from pipeline.features import packaged
from pipeline.features.backbones import imagenet_tensors, random_tensors


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors under torchvision's names, a word on where they came from, and settings that belong to them."""

    tensors: Mapping[str, Tensor]
    origin: str
    backbone: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return them as safetensors; equal tensors give equal bytes."""
        data: bytes = save_safetensors({name: value.contiguous() for name, value in self.tensors.items()})
        return data


HEADS = ("fc.", "head.", "hash.")
"""What the linear layer after pooling is called in checkpoints of hash and embedding networks."""


def named_weights(backbone: str, name: str, *, head: bool = False) -> Weights:
    """Resolve --weights: "imagenet", "random:SEED", or the location of a file.

    head: take a file's last linear layer for the projection after pooling, unless it holds one by that name.
    """
    if name == "imagenet":
        return Weights(tensors=imagenet_tensors(backbone), origin="imagenet", backbone=backbone)
    if name.startswith(RANDOM_WEIGHTS):
        seed = name.removeprefix(RANDOM_WEIGHTS)
        if not seed.isdigit():
            raise UserError(f"--weights {name}", "names no seed", "write for example random:0")
        return Weights(tensors=random_tensors(backbone, int(seed)), origin=name, backbone=backbone)
    checkpoint = checkpoint_at(name)
    tensors = dict(checkpoint.tensors)
    if backbone in packaged.PACKAGED and packaged.FIRST in tensors:
        tensors = packaged.renamed(backbone, tensors)
    if head and "projection.weight" not in tensors:
        for key in [key for key in tensors if key.startswith(HEADS)]:
            tensors[f"projection.{key.rpartition('.')[2]}"] = tensors.pop(key)
    return Weights(tensors=tensors, origin=Path(public_url(name)).name, backbone=backbone)


def checkpoint_at(location: str) -> Checkpoint:
    """Read a checkpoint file, or a folder that `sightline convert` wrote, from an allowed location."""
    with local_copy(location) as path:
        return read_checkpoint(path)


@contextmanager
def local_copy(location: str) -> Iterator[Path]:
    """Give a local path for a file (or a local folder) for as long as it is needed."""
    if "://" not in location and Path(location).is_dir():
        yield Path(location)
        return
    store, name = split_location(location)
    with staging.folder() as folder:
        try:
            path = store.local(name, Path(folder))
        except NotFoundError:
            raise UserError(public_url(location), "does not exist", "check the path") from None
        yield path
