"""Opening: which formats are read, how large an image may be, and what decoding it takes. No pixels are read here.

Pillow's own opening is not used: its bound on pixels is one for the whole process, and knows no reduced decoding.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from PIL import Image
from PIL.ImageFile import ImageFile

from pipeline.core.errors import BadImageError
from pipeline.decode import png
from pipeline.decode.resize import Resize

REDUCTION_GAP = 1.5
"""A JPEG is decoded at no less than this many times the size that is wanted: what is left is resized with a filter."""
MOST_REDUCED = 16
"""Reduced decoding reads a JPEG of at most this many times the bound on pixels: its time is that of all of them."""
BYTES_PER_PIXEL = {"JPEG2000": 40, "AVIF": 20, "WEBP": 18}
"""Bytes of an image at full size, of its converted copy and of what the decoder holds meanwhile, measured, where it is
not as usual: OpenJPEG computes in 32 bits, libavif and libwebp keep the frame beside its RGB."""
USUAL_BYTES_PER_PIXEL = 10
PHOTOGRAPH_BYTES_PER_PIXEL = 7
"""The same for a JPEG of colours, which is not copied: what is decoded, and the first step of resizing."""
TRANSPARENT_BYTES_PER_PIXEL = 10
"""What is needed beside that where a background shows through: three copies of four bytes a pixel at a time."""
COEFFICIENT_BYTES_PER_PIXEL = 6
BYTES_PER_RESULT = 8
"""The same for a pixel of the resized image: Pillow's, and the array."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is decoded at all. max_pixels: as decoded, so that reduced decoding reads larger JPEGs."""

    max_pixels: int = 64_000_000
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")


def opened(data: bytes, formats: tuple[str, ...]) -> ImageFile:
    """Return an encoded image with its header read; BadImageError when it is of none of the formats."""
    lacking = ""
    for name in formats:
        if name not in Image.OPEN:
            Image.init()
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        fits = accept is None or accept(data[:16])
        if isinstance(fits, str):
            # A plug-in whose library is missing answers with a sentence.
            lacking = name
        if not fits or isinstance(fits, str):
            continue
        try:
            return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    if lacking:
        raise BadImageError(f"{lacking} cannot be decoded by the Pillow that is installed")
    raise BadImageError("not an image of an allowed format")


def without_texts(data: bytes, error: Exception) -> tuple[bytes, bytes] | None:
    """Return a PNG without the texts that were larger than Pillow reads, and its profile; None for any other error."""
    if isinstance(error, ValueError) and "MAX_TEXT" in str(error) and data.startswith(png.SIGNATURE):
        return png.without_texts(data)
    return None


def checked(image: ImageFile, data: bytes, resize: Resize, limits: Limits, *, reduced: bool) -> tuple[int, int]:
    """Return width and height as the header states them; BadImageError where pixels would be too many.

    With reduced decoding a JPEG is set to be decoded at a fraction, and counts as what that takes.
    """
    width, height = image.size
    pixels = width * height
    if image.format == "JPEG2000":
        pixels = max(pixels, _codestream_pixels(data))
    if reduced and (image.format == "JPEG" or (image.format == "MPO" and pixels > limits.max_pixels)):
        across, down = resize.target(width, height)
        image.draft(None, (round(REDUCTION_GAP * across), round(REDUCTION_GAP * down)))
        if pixels <= MOST_REDUCED * limits.max_pixels:
            # All coefficients of a progressive JPEG are kept, in half the memory of its pixels.
            pixels = max(image.width * image.height, pixels // 2 if _keeps_coefficients(data) else 0)
    if pixels > limits.max_pixels:
        raise BadImageError(f"larger than {_megapixels(limits.max_pixels)} megapixels: {width}x{height}")
    resize.checked(width, height, limits.max_pixels)
    return width, height


def needed(data: bytes, resize: Resize, limits: Limits, *, reduced: bool) -> int:
    """Return about how many bytes decoding and resizing an image takes; 0 when it will be refused."""
    try:
        with opened(data, limits.formats) as image:
            width, height = checked(image, data, resize, limits, reduced=reduced)
            across, down = resize.result(width, height)
            held = COEFFICIENT_BYTES_PER_PIXEL * width * height if _keeps_coefficients(data) else 0
            return max(_rate(image) * image.width * image.height, held) + BYTES_PER_RESULT * across * down
    except Exception:  # noqa: BLE001 - `decode` will say what is wrong with it
        return 0


def _rate(image: ImageFile) -> int:
    """Return about how many bytes a pixel takes from being decoded to being resized."""
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        return PHOTOGRAPH_BYTES_PER_PIXEL
    usual = BYTES_PER_PIXEL.get(image.format or "", USUAL_BYTES_PER_PIXEL)
    return usual + (TRANSPARENT_BYTES_PER_PIXEL if image.has_transparency_data else 0)


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:g}"


def _codestream_pixels(data: bytes) -> int:
    """Return the pixels that a JPEG 2000 codestream states: its box may state another size."""
    place = data.find(b"\xff\x4f\xff\x51")
    header = data[place + 8 : place + 24]
    if place < 0 or len(header) < 16:
        return 0
    right, bottom, left, top = struct.unpack(">4I", header)
    return int(max(0, right - left) * max(0, bottom - top))


def _keeps_coefficients(data: bytes) -> bool:
    """Whether libjpeg keeps the coefficients of a whole JPEG: it is progressive, or its components come one by one."""
    place, components = 2, 0
    while data[:2] == b"\xff\xd8" and place + 9 < len(data):
        if data[place] != 0xFF:
            place += 1
            continue
        marker = data[place + 1]
        if marker in (0xFF, 0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            place += 1 if marker == 0xFF else 2
            continue
        if marker in (0xC2, 0xC6, 0xCA, 0xCE):
            return True
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            components = data[place + 9]
        if marker == 0xDA:
            return data[place + 4] < components
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False
