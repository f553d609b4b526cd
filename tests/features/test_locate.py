from __future__ import annotations

import pytest
import torch

from pipeline.features.locate import locate, pooled


@pytest.mark.parametrize("p", [1.0, 3.0, 10.0])
@pytest.mark.parametrize(("top", "left", "height", "width"), [(2, 3, 5, 7), (0, 0, 4, 4), (9, 12, 5, 6), (3, 0, 1, 9)])
def test_an_object_is_found_where_it_was_put(p: float, top: int, left: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(24, 14, 18) * 0.2
    thing = torch.rand(24)[:, None, None] * (0.9 + 0.2 * torch.rand(24, height, width))
    x[:, top : top + height, left : left + width] = thing
    found = locate(x, pooled(thing, p)[None], p)
    box = (found.left * 18, found.top * 14, found.width * 18, found.height * 14)
    assert box == pytest.approx((left, top, width, height), abs=1.01)
    inside = x[:, round(box[1]) : round(box[1] + box[3]), round(box[0]) : round(box[0] + box[2])]
    assert found.score == pytest.approx(float(pooled(inside, p) @ pooled(thing, p)), abs=1e-6)
    assert found.score > 0.95


def test_the_smallest_map_is_one_region() -> None:
    found = locate(torch.ones(3, 1, 1), pooled(torch.ones(3, 2, 2), 3.0)[None], 3.0)
    assert (found.left, found.top, found.width, found.height) == (0, 0, 1, 1)
    assert found.score == pytest.approx(1.0)
