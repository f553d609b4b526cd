"""Pixels of an RGB image as an array, without the interpreter's lock while they are copied.

`Image.tobytes`, by which numpy reads an image, holds the lock for all of its copies: there threads that decode wait for
one another. Pillow also says where an image lies, as Arrow does; four bytes to the pixel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image


def as_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the pixels (H, W, 3) uint8, contiguous, of an image of mode RGB."""
    assert image.mode == "RGB", "pixels are those of RGB images"
    width, height = image.size
    try:
        stored = pa.array(image).buffers()[-1]
    except ValueError:
        # An image of more than 16 MB lies in several pieces.
        return np.ascontiguousarray(image)
    padded = np.frombuffer(stored, np.uint8, 4 * width * height).reshape(height, width, 4)
    pixels = np.empty((height, width, 3), np.uint8)
    # One channel after the other: numpy copies runs of three bytes one at a time, which takes four times as long.
    for channel in range(3):
        pixels[..., channel] = padded[..., channel]
    return pixels
