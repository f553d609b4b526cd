"""`sightline convert`: a foreign checkpoint becomes safetensors + JSON, once, without running pickled code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs._main import run_module
from jobs.weights import checkpoint_at
from pipeline.checkpoints import write_checkpoint
from pipeline.core.names import public_url


def convert(location: str, folder: str) -> dict[str, Any]:
    """Convert and return what was found, as the JSON that scripts rely on."""
    checkpoint = checkpoint_at(location)
    files = write_checkpoint(checkpoint, Path(folder))
    return {
        "checkpoint": public_url(location),
        "sha256": checkpoint.source_sha256,
        "format": checkpoint.format,
        "backbone": checkpoint.backbone,
        "settings": dict(checkpoint.settings),
        "tensors": len(checkpoint.tensors),
        "whitenings": sorted(checkpoint.whitenings),
        "files": [str(file) for file in files],
    }


def lines(data: dict[str, Any]) -> list[str]:
    """Return the conversion in words."""
    whitenings = ", ".join(data["whitenings"]) or "none"
    return [
        f"{data['checkpoint']}: {data['format']} checkpoint, backbone {data['backbone'] or 'not stated'}, "
        f"{data['tensors']} tensors, whitenings: {whitenings}",
        *(f"wrote {file}" for file in data["files"]),
        *([f"use it with --model {Path(data['files'][0]).parent}"] if data["backbone"] else []),
    ]


if __name__ == "__main__":
    run_module("convert")
