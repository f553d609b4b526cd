"""A submitted job runs with the Python of the cluster's environment, not with whatever the PATH has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.run.ray.jobs import entrypoint

SUPERVISOR = """
import mmap, subprocess, sys
if sys.argv[1]:
    file = open(sys.argv[1], "r+b")
    mapped = mmap.mmap(file.fileno(), 0)
sys.exit(subprocess.run(sys.argv[2], shell=True).returncode)
"""
"""What Ray does: a Python process with Ray's library in its memory starts the command in a shell."""


def answering(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\necho {name} "$@"\n')
    path.chmod(0o755)


def answer(folder: Path, library: str) -> str:
    """What the Python that is chosen says; the first `python` of the PATH is another one."""
    answering(folder / "other" / "python", "other")
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISOR, library, entrypoint(["-m", "jobs.cli", "index", "a b", "it's"])],
        env={**os.environ, "PATH": f"{folder / 'other'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="processes cannot be looked into here")
def test_the_environment_of_the_supervisor_goes_before_the_path(tmp_path: Path) -> None:
    root = tmp_path / "the environment"
    answering(root / "bin" / "python", "own")
    library = root / "lib" / "python3.11" / "site-packages" / "ray" / "_raylet.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"x" * 4096)
    assert answer(tmp_path, str(library)) == "own -m jobs.cli index a b it's"


def test_without_a_library_to_go_by_the_path_decides(tmp_path: Path) -> None:
    assert answer(tmp_path, "") == "other -m jobs.cli index a b it's"
