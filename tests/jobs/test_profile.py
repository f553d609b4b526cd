"""A profile names what limits a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.profile import ADVICE, lines, profile
from tests.builders import images, run, write_files

FORWARD = {"device_seconds": 9.5, "decode_seconds": 5.0, "read_seconds": 0.2, "write_seconds": 0.1}
DECODE = {"device_seconds": 3.0, "decode_seconds": 15.0, "read_seconds": 1.0, "write_seconds": 0.1}
STORE = {"device_seconds": 2.0, "decode_seconds": 2.0, "read_seconds": 7.0, "write_seconds": 0.1}
WRITE = {"device_seconds": 2.0, "decode_seconds": 2.0, "read_seconds": 0.5, "write_seconds": 6.0}


@pytest.mark.parametrize(
    ("stats", "limit"), [(FORWARD, "forward"), (DECODE, "decode"), (STORE, "store"), (WRITE, "write")]
)
def test_the_limit_is_named_with_what_to_do(tmp_path: Path, stats: dict[str, float], limit: str) -> None:
    report = run(write_files(tmp_path / "src", images(4)), tmp_path / "root")
    measured = profile(report)
    assert sum(measured["phases"].values()) == pytest.approx(1.0, abs=0.01)
    assert measured["extract"]["images_per_second_per_worker"] > 0
    told = profile(replace(report, stats={"images": 100.0, "busy_seconds": 10.0, **stats}))
    assert told["limit"] == limit
    assert ADVICE[limit] in lines(told)[-1]
    assert "10.0 images/s per worker" in lines(told)[1]


def test_a_run_that_finds_nothing_says_so(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", images(4))
    run(source, tmp_path / "root")
    assert profile(run(source, tmp_path / "root"))["limit"] == "nothing"
