"""An indexing run in words."""

from __future__ import annotations

from pathlib import Path

from jobs.index_report import index_json, index_lines
from pipeline.core.stats import devices
from tests.builders import images, run, write_files


def test_a_report_says_on_what_shards_were_described(tmp_path: Path) -> None:
    source, root = write_files(tmp_path / "src", images(9)), tmp_path / "root"
    report = run(source, root, files=3)
    shards = int(index_json(report)["stats"]["on cpu"])
    assert shards >= 1
    assert f"device: cpu ({shards} shards)" in index_lines(report, dry_run=False)
    again = run(source, root)
    assert not [line for line in index_lines(again, dry_run=False) if line.startswith("device:")]


def test_devices_are_listed_with_the_most_used_first() -> None:
    assert devices({"on cpu": 2.0, "on cuda H100": 40.0, "on cuda L4": 0.0, "images": 3.0}) == {
        "cuda H100": 40,
        "cpu": 2,
    }
    assert list(devices({"on cpu": 2.0, "on cuda H100": 40.0})) == ["cuda H100", "cpu"]
