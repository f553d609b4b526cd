"""A process that hangs with its interpreter is ended; one that gets on is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

PROGRAM = """
import ctypes, sys
from pipeline.run.ray.watchdog import ending_after

with ending_after(float(sys.argv[1])):
    # Through PyDLL a call keeps the interpreter to itself, as a library may that hangs.
    ctypes.PyDLL(None).sleep(int(sys.argv[2]))
print("went on")
"""


@pytest.mark.parametrize(("limit", "sleep", "code", "out"), [("1", "600", 1, ""), ("60", "1", 0, "went on")])
def test_a_block_that_takes_longer_ends_its_process_and_says_where_it_was(
    limit: str, sleep: str, code: int, out: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, limit, sleep], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (code, out)
    assert ("most recent call first" in done.stderr) == bool(code)
