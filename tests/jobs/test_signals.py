"""Commands that are asked to end: SIGTERM and SIGHUP leave nothing behind, and say what is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.signals import ending_in_order
from tests.builders import images, run, write_files

REPOSITORY = Path(__file__).parent.parent.parent
QUICK = ["--backbone", "squeezenet1_1", "--weights", "random:0", "--resize", "longest:64", "--whiten", "none"]


def started(arguments: Sequence[str], temporary: Path, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, sys.executable, "-m", "jobs.cli", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_a_record(root: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(root.glob("descriptors/*/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_a_run_that_is_asked_to_end_releases_its_lease_and_its_staging(number: signal.Signals, tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(600)), tmp_path / "root"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = ["index", str(source), str(root), *QUICK, "--indexes", "flat", "--files-per-shard", "20", "--json"]
    process = started(command, temporary)
    try:
        until_a_record(root)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert json.loads(out)["exit"] == 130
    assert "interrupted; run the same command again" in err
    assert "Traceback" not in err
    assert list((root / "leases").glob("*")) == []
    assert not list(root.rglob(".sightline-tmp-*"))
    assert not list(temporary.glob("sightline-*/*")), "the staging folder is removed"
    assert not (root / "snapshots").exists()
    kept = len(list(root.glob("descriptors/*/*.json")))
    assert 0 < kept < 30, "it ended in the middle"


def test_nohup_stays_in_force(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_in_order():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_first_signal_interrupts_and_later_ones_do_not_disturb_the_end() -> None:
    before = signal.getsignal(signal.SIGTERM)
    ended = []

    def ends() -> None:
        with ending_in_order():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGHUP)
                ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        ends()
    assert ended
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_change_nothing(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside: list[object] = []

    def work() -> None:
        with ending_in_order():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
    run(write_files(tmp_path / "src", images(1)), tmp_path / "root")
