"""Fixtures that many tests share: where the real data is, and one thread per process so that runs stay quick."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real photographs, weights and ground truth; tests that need it skip without it."""
    folder = os.environ.get("SIGHTLINE_REAL_DATA", "")
    if not folder:
        pytest.skip("SIGHTLINE_REAL_DATA is not set")
    path = Path(folder).resolve()
    assert path.is_dir(), f"SIGHTLINE_REAL_DATA names {path}, which is no folder"
    return path


@pytest.fixture(scope="session")
def golden_data(real_data: Path) -> Path:
    """Folder of values computed with the reference implementations."""
    return real_data.parent / "golden"
