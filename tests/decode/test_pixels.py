"""Pixels are those that numpy reads of an image, whatever its size; and those of the image that was converted."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest

from pipeline.decode import Resize, decode
from pipeline.decode.pixels import as_array
from tests.builders import encoded, picture


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 7), (640, 481), (2300, 2000)], ids=str)
def test_pixels_are_those_of_the_image(size: tuple[int, int]) -> None:
    """The last one is more than the 16 MB that Pillow keeps in one piece."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    found = as_array(PIL.Image.fromarray(noise))
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, noise)


def test_they_are_a_copy() -> None:
    image = picture(1)
    found = as_array(image)
    before = image.tobytes()
    found[:] = 0
    assert image.tobytes() == before


@pytest.mark.parametrize("resize", ["none", "longest:40", "longest:500", "shortest:30", "exact:30x50"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_photograph_that_is_not_copied_has_the_pixels_of_its_copy(resize: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(2, 90, 70), "JPEG", quality=85, exif=exif)
    policy = Resize.parse(resize)
    copied = PIL.Image.open(io.BytesIO(data)).convert("RGB")
    expected = policy.apply(copied, orientation >= 5)
    turn = {3: PIL.Image.Transpose.ROTATE_180, 6: PIL.Image.Transpose.ROTATE_270}.get(orientation)
    expected = expected if turn is None else expected.transpose(turn)
    found = decode(data, policy)
    np.testing.assert_array_equal(found.pixels, np.asarray(expected))
    assert (found.width, found.height) == ((70, 90) if orientation >= 5 else (90, 70))
