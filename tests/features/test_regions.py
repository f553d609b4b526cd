from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.features.pooling import spoc
from pipeline.features.regions import overlapping_rmac, regional, rmac_grid


def slow_grid(height: int, width: int, levels: int) -> list[tuple[int, int, int, int]]:
    """The grid straight from its definition, in exact fractions."""
    w, long = min(height, width), max(height, width)
    gaps = []
    for steps in range(2, 8):
        b = Fraction(long - w, steps - 1)
        gaps.append(abs((Fraction(w * w) - w * b) / (w * w) - Fraction(2, 5)))
    index = gaps.index(min(gaps))
    wd, hd = (index + 1 if width > height else 0), (index + 1 if height > width else 0)
    boxes = []
    for level in range(1, levels + 1):
        side = (2 * w) // (level + 1)
        if side == 0:
            continue
        columns, rows = level + wd, level + hd
        xs = [0] if columns == 1 else [Fraction(k * (width - side), columns - 1).__floor__() for k in range(columns)]
        ys = [0] if rows == 1 else [Fraction(k * (height - side), rows - 1).__floor__() for k in range(rows)]
        boxes += [(y, x, side, side) for y in ys for x in xs]
    return boxes


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4))
def test_the_grid_follows_its_definition(height: int, width: int, levels: int) -> None:
    assert list(rmac_grid(height, width, levels)) == slow_grid(height, width, levels)


@pytest.mark.parametrize(("height", "width", "count"), [(7, 7, 14), (24, 32, 20), (12, 32, 32)])
def test_region_counts_are_those_of_the_reference(height: int, width: int, count: int) -> None:
    assert len(rmac_grid(height, width, 3)) == count


@given(st.integers(1, 50), st.integers(1, 50))
def test_every_region_lies_inside_the_map(height: int, width: int) -> None:
    for top, left, rows, columns in rmac_grid(height, width):
        assert top >= 0
        assert left >= 0
        assert top + rows <= height
        assert left + columns <= width


def test_rmac_reproduces_the_reference_implementation(golden_data: Path) -> None:
    golden = np.load(golden_data / "pooling.npz", allow_pickle=False)
    names = [name for name in golden.files if "_rmac_L" in name]
    for name in names:
        map_name, _, level = name.partition("_rmac_L")
        ours = regional(torch.from_numpy(golden[f"{map_name}_x"]), levels=int(level))
        np.testing.assert_allclose(ours.numpy(), golden[name], rtol=1e-4, atol=1e-7)
    assert len(names) == 15


def test_a_single_position_is_its_own_region() -> None:
    x = torch.rand(1, 4, 1, 1)
    assert regional(x).shape == (1, 4)


def test_region_whitening_is_applied_to_each_region() -> None:
    x = torch.rand(1, 4, 5, 5)
    rotation = torch.linalg.qr(torch.rand(4, 4)).Q
    rotated = regional(x, pool=spoc, whiten=lambda v: v @ rotation)
    # A rotation keeps lengths, so it commutes with normalising and adding.
    torch.testing.assert_close(rotated, regional(x, pool=spoc) @ rotation, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 7), (12, 32), (3, 9), (1, 5), (2, 2)])
def test_overlapping_windows_follow_their_definition(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 6, *shape)
    small, expected = min(shape), torch.zeros(2, 6)
    for level in (1, 2, 3):
        window = min(small, max(2 * small // (level + 1), 2))
        stride = max(int(0.5 * window), 1)
        for top in range(0, shape[0] - window + 1, stride):
            for left in range(0, shape[1] - window + 1, stride):
                region = x[:, :, top : top + window, left : left + window].amax(dim=(2, 3))
                expected += region / (region.norm(dim=1, keepdim=True) + 1e-6)
    torch.testing.assert_close(overlapping_rmac(x), expected)
