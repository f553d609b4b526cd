"""Thumbnails: small JPEGs made anew of untrusted images, for pages and reports. Nothing of the file is passed on."""

from __future__ import annotations

import io

from PIL import Image

from pipeline.decode import Limits, Rendering, Resize, decode
from pipeline.extract import ImageSpec

QUALITY = 82
SHOWN = Rendering(colour="srgb", grey16="scaled")
"""A JPEG without profile is taken as sRGB."""


def limits_of(extractor: object) -> Limits:
    """Return the bounds on originals that were indexed by a recipe's extractor: what was indexed can be shown.

    Vectors made elsewhere say nothing of their originals.
    """
    return extractor.limits if isinstance(extractor, ImageSpec) else Limits()


def thumbnail(data: bytes, longest: int, limits: Limits) -> bytes:
    """Return an encoded image as a JPEG of at most `longest` pixels a side; BadImageError when it cannot be decoded.

    Turned as its EXIF says, without metadata, never enlarged.
    """
    pixels = decode(data, Resize(policy="longest", size=longest), limits, reduced=True, rendering=SHOWN).pixels
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=QUALITY, progressive=True)
    return out.getvalue()
