"""Objects located in real photographs: paintings pasted onto others at known boxes."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.localisation import by_ransac, by_regions, composites


def test_paintings_are_located_by_ransac_and_by_regions(real_data: Path, tmp_path: Path) -> None:
    made = composites(real_data, tmp_path / "composites", 8)
    assert by_ransac(tmp_path / "composites", tmp_path, made) >= 0.7
    small = dict(list(made.items())[:5])
    regions = by_regions(real_data, tmp_path / "composites", tmp_path, small, "squeezenet1_0", "rmac", "longest:768")
    assert regions >= 0.45
