"""Histograms by hard and by linear binning, against counts written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipeline.core.local import LocalStore
from pipeline.decode import Decoded
from pipeline.extract.histogram import Spec

CPU = torch.device("cpu")


def histogram(pixels: np.ndarray, **fields: object) -> np.ndarray:
    spec = Spec.model_validate({"space": "rgb", "bins": (4, 2, 3), "power": 1.0, **fields})
    image = Decoded(pixels=pixels.astype(np.uint8), width=pixels.shape[1], height=pixels.shape[0])
    return np.asarray(spec.build(LocalStore("/"), CPU).extract([image]).vectors[0])


@pytest.mark.parametrize("binning", ["hard", "linear"])
def test_a_histogram_is_what_a_slow_count_gives(binning: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3))
    bins = (4, 2, 3)
    expected = np.zeros(bins)
    for pixel in pixels.reshape(-1, 3):
        if binning == "hard":
            expected[tuple(int(v) * n // 256 for v, n in zip(pixel, bins, strict=True))] += 1
            continue
        shares = []
        for value, n in zip(pixel, bins, strict=True):
            place = (value + 0.5) * n / 256 - 0.5
            low = int(np.floor(place))
            shares.append([(max(low, 0), 1 - (place - low)), (min(low + 1, n - 1), place - low)])
        for one in itertools.product(*shares):
            expected[tuple(bin_ for bin_, _ in one)] += np.prod([share for _, share in one])
    expected = expected.reshape(-1) / np.linalg.norm(expected)
    np.testing.assert_allclose(histogram(pixels, binning=binning), expected, atol=1e-6)


def test_a_colour_at_the_edge_of_a_bin_stays_where_it_is_when_it_changes_by_one() -> None:
    below, above = np.full((8, 8, 3), 127), np.full((8, 8, 3), 128)
    assert histogram(below) @ histogram(above) == 0
    assert histogram(below, binning="linear") @ histogram(above, binning="linear") > 0.99


def test_the_last_hue_is_next_to_the_first() -> None:
    red, almost = np.tile([255, 0, 0], (8, 8, 1)), np.tile([255, 0, 6], (8, 8, 1))
    fields = {"space": "hsv", "bins": (8, 4, 4), "binning": "linear"}
    assert histogram(red, **fields) @ histogram(almost, **fields) > 0.99
