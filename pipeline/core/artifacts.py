"""Reading stored objects by their recorded size and sha256. Where they lie is decided in publish/catalog.py."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.core.errors import IntegrityError, NotFoundError
from pipeline.core.os_errors import reading
from pipeline.core.storage import Store
from pipeline.core.types import Artifact


def read_artifact(store: Store, artifact: Artifact) -> bytes:
    """Return an artifact's bytes; IntegrityError unless they are there and are what was recorded."""
    try:
        data = store.read(artifact.uri)
        if hashlib.sha256(data).hexdigest() != artifact.sha256:
            # What was changed on its way is right the second time; what was changed where it lies is not.
            data = store.read(artifact.uri)
    except NotFoundError:
        raise IntegrityError(artifact.uri, "is missing") from None
    _check(artifact, len(data), hashlib.sha256(data).hexdigest())
    return data


def fetch_artifact(store: Store, artifact: Artifact, folder: Path) -> Path:
    """Return a local path of an artifact, verified; remote stores download into `folder`."""
    try:
        path, size, digest = _local(store, artifact, folder)
        if digest != artifact.sha256:
            path, size, digest = _local(store, artifact, folder)
    except NotFoundError:
        raise IntegrityError(artifact.uri, "is missing") from None
    _check(artifact, size, digest)
    return path


def _local(store: Store, artifact: Artifact, folder: Path) -> tuple[Path, int, str]:
    """Return a local path of an artifact, and the size and digest of what is there."""
    path = store.local(artifact.uri, folder)
    # A local store gives its own file: errors of reading it are those of the store.
    with reading(artifact.uri, store.url):
        return path, path.stat().st_size, file_digest(path)


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(artifact: Artifact, size: int, sha256: str) -> None:
    if size != artifact.bytes:
        raise IntegrityError(artifact.uri, f"has {size} bytes, {artifact.bytes} were recorded")
    if sha256 != artifact.sha256:
        raise IntegrityError(artifact.uri, "does not match the sha256 recorded for it")
