"""Temporary folders go away with their process, also with one that was killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.core import staging
from pipeline.core.errors import PlaceError, UserError

VICTIM = """
import os, signal, sys
from pathlib import Path
from pipeline.core import staging
kept = staging.folder("victim-")
(Path(kept.name) / "descriptors.parquet").write_bytes(b"x" * 1000)
print(kept.name, flush=True)
if sys.argv[1] == "wait":
    sys.stdin.read()
elif sys.argv[1] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(staging, "_mine", None)
    return tmp_path


def start(place: Path, how: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", VICTIM, how],
        env={**os.environ, "TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_killed_process_s_folder_is_cleared_by_the_next_and_a_living_one_s_is_kept(place: Path) -> None:
    living, kept = start(place, "wait")
    killed, left = start(place, "die")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert (left / "descriptors.parquet").exists(), "what was staged is still there"
    with staging.folder() as mine:
        assert Path(mine).is_dir()
        assert not left.parent.exists(), "the dead process's folder is gone"
        assert (kept / "descriptors.parquet").exists(), "the living one's is not"
    assert not Path(mine).exists()
    living.communicate(input="", timeout=60)
    assert not kept.parent.exists(), "a process that ends in order leaves nothing"
    assert len(list(staging.base().glob("*.lock"))) == 1, "its own"


def test_a_base_that_others_could_write_to_is_refused(place: Path) -> None:
    staging.base().mkdir(mode=0o700)
    staging.base().chmod(0o777)
    with pytest.raises(UserError, match="is not a folder of this user alone"):
        staging.folder()


def test_a_base_that_is_a_link_is_refused(place: Path) -> None:
    (place / "elsewhere").mkdir()
    staging.base().symlink_to(place / "elsewhere")
    with pytest.raises((UserError, FileExistsError)):
        staging.folder()


def test_a_disk_that_fills_up_during_a_block_is_named(place: Path) -> None:
    line = rf"^{staging.base()}: .*No space left on device.*free space"
    with pytest.raises(PlaceError, match=line), staging.folder() as folder:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not Path(folder).exists()
    with pytest.raises(OSError, match="denied"), staging.folder():
        raise PermissionError(errno.EACCES, "denied")


def test_a_place_that_takes_no_folder_is_named(place: Path) -> None:
    staging.base().write_bytes(b"")
    with pytest.raises(PlaceError, match=f"^{staging.base()}: cannot be written"):
        staging.folder()
