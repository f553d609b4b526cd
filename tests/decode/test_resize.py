"""What a resize policy makes of sizes, and where it stops."""

from __future__ import annotations

import pytest

from pipeline.core.errors import BadImageError
from pipeline.decode import Resize, decode
from tests.builders import encoded, picture

MOST = 64_000_000


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1)])
@pytest.mark.parametrize("policy", ["shortest:256", "shortest:1024", "shortest:50000"])
def test_a_line_of_pixels_is_not_made_a_strip_of_gigabytes(size: tuple[int, int], policy: str) -> None:
    with pytest.raises(BadImageError, match=rf"too narrow to be enlarged: {size[0]}x{size[1]}, {policy} makes"):
        decode(encoded(picture(1, *size)), Resize.parse(policy))


def test_no_policy_makes_more_pixels_than_are_decoded_at_all() -> None:
    with pytest.raises(BadImageError, match="resized to too many pixels: 64x48, exact:20000x20000"):
        decode(encoded(picture(2)), Resize.parse("exact:20000x20000"))
    for policy in ("longest:99999", "none", "shortest:48"):
        assert decode(encoded(picture(2)), Resize.parse(policy)).pixels.shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("policy", "size", "result"),
    [
        ("shortest:256", (100, 1000), (256, 2560)),
        ("shortest:224", (20, 1900), (224, 21280)),
        ("shortest:4000", (1000, 1000), (4000, 4000)),
        ("shortest:2", (1, 3000), (2, 6000)),
        ("shortest:100", (400, 60000), (100, 15000)),
        ("exact:30x20", (1, 20000), (30, 20)),
    ],
)
def test_images_that_are_only_odd_are_resized(policy: str, size: tuple[int, int], result: tuple[int, int]) -> None:
    assert Resize.parse(policy).checked(*size, MOST) == result


def test_enlarging_stops_where_a_pass_would_take_gigabytes() -> None:
    with pytest.raises(BadImageError, match="makes 1024x62464"):
        Resize.parse("shortest:1024").checked(1, 61, MOST)
    # An image that has so many pixels itself is not enlarged.
    assert Resize.parse("shortest:1024").checked(1024, 60000, MOST) == (1024, 60000)
