from __future__ import annotations

import numpy as np
import pytest

from pipeline.search.merge import Candidates
from pipeline.search.vote import voted


def hits(*found: tuple[float, int, int]) -> Candidates:
    score, file, row = zip(*found, strict=True)
    return Candidates(score=np.array(score, np.float32), file=np.array(file, np.int64), row=np.array(row, np.int64))


def test_each_descriptor_votes_once_per_image_by_its_best_match() -> None:
    found = voted([hits((0.9, 0, 1), (0.8, 0, 1), (0.5, 1, 1)), hits((1.0, 1, 1), (-0.5, 0, 2))])
    assert list(zip(found.file.tolist(), found.row.tolist(), strict=True)) == [(1, 1), (0, 1), (0, 2)]
    assert found.score.tolist() == pytest.approx([(0.5**3 + 1) / 2, 0.9**3 / 2, 0.0])


def test_no_descriptors_vote_for_nothing() -> None:
    assert len(voted([])) == 0
