"""Colour: what Pillow decoded, of any mode, as 8-bit RGB. Grey of many bits, transparency, colour profiles."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageColor

Colour = Literal["ignore", "srgb"]
Grey16 = Literal["upper", "scaled"]
MOST_PROFILE = 8 << 20
"""Larger profiles are ignored; those of printing presses have 3 MB."""
SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile -> the mode of images that it is for."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits of the cameras and scanners there are."""
MAX_SAMPLE_VALUE = 281
"""TIFF's tag for the largest value that samples can have."""
PROBE = 9
"""Steps per channel of the colours by which a profile is compared with sRGB."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How what was decoded becomes RGB; the defaults are the first release's.

    colour: "srgb" converts by the image's ICC profile, relative colorimetric with black point compensation; a profile
    that is broken, or not for the image's mode, is ignored. background: what shows through transparency. grey16: of
    grey with more than 8 bits "upper" keeps the upper byte of 16; "scaled" the upper 8 of as many bits as the image
    uses: those of TIFF's MaxSampleValue, else the least of 8, 10, 12, 14, 16 that hold its largest value.
    """

    colour: Colour = "ignore"
    background: str = "white"
    grey16: Grey16 = "upper"


def to_rgb(
    image: Image.Image, rendering: Rendering, profile: bytes
) -> tuple[Image.Image, ImageCms.ImageCmsTransform | None]:
    """Return the image as RGB, or of its profile's mode with the transform to sRGB, which is best applied when small.

    profile: the image's ICC profile, or empty.
    """
    grey = _grey(image, rendering.grey16)
    image = image if grey is None else Image.fromarray(grey)
    transparent = image.has_transparency_data
    if rendering.colour == "srgb" and profile:
        mode = {"P": "RGB", "PA": "RGB", "RGBA": "RGB", "LA": "L"}.get(image.mode, image.mode)
        transform = to_srgb(profile, mode)
        if transform is not None:
            if not transparent:
                return image.convert(mode), transform
            return _composed(_srgb(image, mode, transform), rendering.background), None
    if transparent:
        return _composed(image.convert("RGBA"), rendering.background), None
    # What has just been decoded is nobody else's: of a photograph no copy is needed.
    return image if image.mode == "RGB" and image.format == "JPEG" else image.convert("RGB"), None


def applied(image: Image.Image, transform: ImageCms.ImageCmsTransform | None) -> Image.Image:
    """Return an image of `to_rgb` as sRGB."""
    if transform is None:
        return image
    made = ImageCms.applyTransform(image, transform)
    assert made is not None, "not in place"
    return made


@lru_cache(maxsize=16)
def to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of images of a mode from a profile to sRGB; None where it is none, or changes nothing."""
    if len(profile) > MOST_PROFILE:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if SPACES.get(source.profile.xcolor_space) != mode:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return None if _changes_nothing(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a profile is sRGB's, or its grey, up to rounding: then pixels stay what they are."""
    if mode == "CMYK":
        return False
    steps = np.linspace(0, 255, PROBE).round().astype(np.uint8)
    levels = np.arange(256, dtype=np.uint8)[None]
    colours = levels if mode == "L" else np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    image = Image.fromarray(colours)
    before = np.asarray(image.convert("RGB")).astype(np.int16)
    return bool(np.abs(np.asarray(applied(image, transform)) - before).max() <= 1)


def _srgb(image: Image.Image, mode: str, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """Return a transparent image as RGBA in sRGB."""
    rgba = image.convert("RGBA")
    opaque = applied(rgba.convert("RGB").convert(mode), transform)
    opaque.putalpha(rgba.getchannel("A"))
    return opaque


def _composed(rgba: Image.Image, background: str) -> Image.Image:
    below = Image.new("RGBA", rgba.size, (*ImageColor.getrgb(background)[:3], 255))
    return Image.alpha_composite(below, rgba).convert("RGB")


def _grey(image: Image.Image, grey16: Grey16) -> npt.NDArray[np.uint8] | None:
    """Return grey of more than 8 bits, or of floats, as bytes; None for any other image."""
    if image.mode == "F":
        floats = np.nan_to_num(np.asarray(image), posinf=255.0, neginf=0.0)
        scale = 255.0 if floats.max(initial=0.0) <= 1.0 else 1.0
        return _bytes(floats * scale)
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return None
    values = np.asarray(image)
    if image.mode != "I":
        values = values.astype(np.uint16)
    if image.format in ("PPM", "JPEG2000"):
        # Pillow scales these to 16 bits by what the file states.
        return _bytes(values >> 8)
    if grey16 == "scaled":
        return _bytes(values >> (_depth(image, int(values.max(initial=0))) - 8))
    if image.mode == "I":
        wide = values.max(initial=0) > 255
        return _bytes(values >> 8 if wide else values)
    return _bytes(values >> 8)


def _bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _depth(image: Image.Image, largest: int) -> int:
    """Return the bits that samples use; largest: their largest value."""
    tags = getattr(image, "tag_v2", {})
    stated = tags.get(MAX_SAMPLE_VALUE, 0)
    stated = max(stated) if isinstance(stated, tuple) and stated else stated
    bits = max(largest, stated if isinstance(stated, int) else 0).bit_length()
    return next((depth for depth in DEPTHS if depth >= bits), bits)
