"""Decoding: encoded bytes to RGB uint8. Pillow defines what is accepted; every refusal has a reason. No files here.

Rules. Formats: the allow-list of `Limits`. Size: checked in the header, before pixels are read, as is the size after
resizing. Orientation: the EXIF turn is applied, invalid tags are ignored. Animated or of several pages: the first. CMYK
and YCCK: by the ICC profile or Pillow's conversion, Adobe's inversion honoured. Grey of 16 bits, transparency and ICC
profiles: see colour.Rendering. Colours of more than 8 bits: the upper byte. Float: 0..1 when no value is above 1, else
0..255, clipped. PNG texts of any size: not read, beyond 1 MB. PGM and PPM: scaled by their largest value. Profiles are
applied after resizing, but for transparent images. On request JPEGs are decoded at a fraction of their size, which is
quicker, changes pixels, and reads larger ones: what counts is the size decoded, of progressive ones half the full size.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile

from pipeline.core.errors import BadImageError
from pipeline.decode.colour import Rendering, applied, to_rgb
from pipeline.decode.opening import Limits, checked, needed, opened, without_texts
from pipeline.decode.pixels import as_array
from pipeline.decode.resize import Resize

# Pillow warns about odd files (bad EXIF, palettes, large sizes); what matters becomes a reason here, and a worker's
# stderr is no place for the rest. A filter set once is safe in threads, catch_warnings is not.
warnings.filterwarnings("ignore", module=r"PIL\..*")


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """pixels (H, W, 3) RGB uint8, turned and resized; width and height of the original after the EXIF turn."""

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int


USUAL, PLAIN = Limits(), Rendering()


def decode(
    data: bytes,
    resize: Resize,
    limits: Limits = USUAL,
    *,
    reduced: bool = False,
    rendering: Rendering = PLAIN,
) -> Decoded:
    """Decode one image; BadImageError says in a few stable words why it cannot be used. Safe in threads.

    reduced: let libjpeg leave out frequencies that the resized image cannot show (1/2, 1/4 or 1/8 of the size).
    MemoryError: there was none for it, which says nothing about the image.
    """
    profile: bytes | None = None
    try:
        try:
            return _decoded(data, resize, limits, reduced, rendering, profile)
        except ValueError as error:
            plain = without_texts(data, error)
            if plain is None:
                raise
            data, profile = plain
            return _decoded(data, resize, limits, reduced, rendering, profile)
    except BadImageError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow refuses broken files with almost any exception
        if str(error).startswith("out of memory"):
            raise MemoryError(str(error)) from None
        raise BadImageError(_reason(error)) from None


def _decoded(
    data: bytes, resize: Resize, limits: Limits, reduced: bool, rendering: Rendering, profile: bytes | None
) -> Decoded:
    with opened(data, limits.formats) as image:
        width, height = checked(image, data, resize, limits, reduced=reduced)
        if profile is None:
            stated = image.info.get("icc_profile")
            profile = stated if isinstance(stated, bytes) else b""
        # Pixels before orientation: looking for EXIF reads a PNG to its end, and would pass over what is broken there.
        base, transform = to_rgb(_loaded(image, data), rendering, profile)
        turned = _is_turned(image)
        rgb = _turned(image, applied(resize.apply(base, turned), transform))
        if turned:
            width, height = height, width
        return Decoded(pixels=as_array(rgb), width=width, height=height)


def pixels_of(data: bytes) -> int:
    """Return the pixel count that the header states, 0 when there is none to read."""
    try:
        with opened(data, USUAL.formats) as image:
            return image.width * image.height
    except Exception:  # noqa: BLE001 - `decode` will say what is wrong with it
        return 0


def _loaded(image: ImageFile, data: bytes) -> Image.Image:
    """Return the image with its pixels; of a PGM or PPM with another largest value than 255 or 65535 as bytes."""
    if image.format != "PPM" or image.tile[0].codec_name != "ppm":
        image.load()
        return image
    # Pillow would take one pixel at a time.
    arguments = image.tile[0].args
    assert isinstance(arguments, tuple), "mode and largest value"
    most = int(arguments[1])
    shape = (image.height, image.width, *([] if image.mode in ("L", "I") else [len(image.getbands())]))
    count = int(np.prod(shape))
    kind = np.dtype(">u2" if most > 255 else "u1")
    if len(data) < image.tile[0].offset + count * kind.itemsize:
        raise BadImageError("truncated")
    values = np.frombuffer(data, kind, count, image.tile[0].offset).reshape(shape)
    shares = np.minimum(values, most).astype(np.float32) * np.float32(255 / most)
    mode = "L" if image.mode == "I" else image.mode
    return Image.frombytes(mode, image.size, np.rint(shares).astype(np.uint8).tobytes())


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - a broken EXIF block is no reason to refuse the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_turned(image: Image.Image) -> bool:
    return _orientation(image) >= 5


def _turned(original: Image.Image, rgb: Image.Image) -> Image.Image:
    orientation = _orientation(original)
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return rgb if method is None else rgb.transpose(method)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "truncated" in text.lower():
        return "truncated"
    return f"cannot be decoded: {re.sub(r'0x[0-9a-f]+', '0x', text)[:120] or type(error).__name__}"


__all__ = ["Decoded", "Limits", "Rendering", "Resize", "decode", "needed", "pixels_of"]
