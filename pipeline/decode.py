"""Decoding: encoded bytes to RGB uint8. Pillow defines what is accepted; every refusal has a reason. No files here.

Rules. Formats: the allow-list of `Limits`. Size: checked in the header, before pixels are read. Orientation: the EXIF
turn is applied, invalid tags are ignored. Animated or of several pages: the first. CMYK and YCCK: Pillow's conversion,
Adobe's inversion honoured. 16-bit grey: the upper byte. 32-bit integers: as 16-bit when the values need it. Float: 0..1
when no value is above 1, else 0..255, clipped. Alpha and transparent palettes: composed onto white. ICC: ignored.
On request JPEGs are decoded at a fraction of their size, which is quicker and changes pixels.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict

from pipeline.core.errors import BadImageError, UserError

# Pillow warns about odd files (bad EXIF, palettes, large sizes); what matters becomes a reason here, and a worker's
# stderr is no place for the rest. A filter set once is safe in threads, catch_warnings is not.
warnings.filterwarnings("ignore", module=r"PIL\..*")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is decoded at all."""

    max_pixels: int = 64_000_000
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """pixels (H, W, 3) RGB uint8, turned and resized; width and height of the original after the EXIF turn."""

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int


class Resize(BaseModel):
    """A resize policy; `parse` and `str` are inverse."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Literal["longest", "shortest", "exact", "none"] = "none"
    size: int = 0
    width: int = 0
    height: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read longest:N, shortest:N, exact:WxH or none."""
        if text == "none":
            return cls()
        if match := re.fullmatch(r"(longest|shortest):([1-9][0-9]{0,4})", text):
            policy: Literal["longest", "shortest"] = "longest" if match[1] == "longest" else "shortest"
            return cls(policy=policy, size=int(match[2]))
        if match := re.fullmatch(r"exact:([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text):
            return cls(policy="exact", width=int(match[1]), height=int(match[2]))
        raise UserError(f"--resize {text}", "is no resize policy", "write longest:N, shortest:N, exact:WxH or none")

    def target(self, width: int, height: int) -> tuple[int, int]:
        """Return about the size that an image of this size will have."""
        if self.policy == "exact":
            return self.width, self.height
        if self.policy == "none":
            return width, height
        side = max(width, height) if self.policy == "longest" else min(width, height)
        scale = min(1.0, self.size / side)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def __str__(self) -> str:
        if self.policy == "none":
            return "none"
        return f"exact:{self.width}x{self.height}" if self.policy == "exact" else f"{self.policy}:{self.size}"


REDUCTION_GAP = 1.5
"""A JPEG is decoded at no less than this many times the size that is wanted: what is left is resized with a filter."""


def decode(data: bytes, resize: Resize, limits: Limits = Limits(), *, reduced: bool = False) -> Decoded:
    """Decode one image; BadImageError says in a few stable words why it cannot be used. Safe in threads.

    reduced: let libjpeg leave out frequencies that the resized image cannot show (1/2, 1/4 or 1/8 of the size).
    """
    try:
        with Image.open(io.BytesIO(data), formats=limits.formats) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise BadImageError(f"larger than {limits.max_pixels // 1_000_000} megapixels: {width}x{height}")
            if reduced and image.format == "JPEG":
                across, down = resize.target(width, height)
                image.draft(None, (round(REDUCTION_GAP * across), round(REDUCTION_GAP * down)))
            rgb = _turned(image, _resized(_to_rgb(image), resize, _is_turned(image)))
            if _is_turned(image):
                width, height = height, width
            return Decoded(pixels=np.ascontiguousarray(rgb), width=width, height=height)
    except (BadImageError, MemoryError):
        # Too little memory is no property of the image: another machine, or a later run, may have more.
        raise
    except Exception as error:  # noqa: BLE001 - Pillow refuses broken files with almost any exception
        raise BadImageError(_reason(error)) from None


def pixels_of(data: bytes) -> int:
    """Return the pixel count that the header states, 0 when there is none to read."""
    try:
        with Image.open(io.BytesIO(data), formats=Limits().formats) as image:
            return image.width * image.height
    except Exception:  # noqa: BLE001 - `decode` will say what is wrong with it
        return 0


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        values = np.asarray(image)
        wide = values.max(initial=0) > 255
        return Image.fromarray(np.clip(values >> 8 if wide else values, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image), posinf=255.0, neginf=0.0)
        scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
        return Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


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


def _resized(rgb: Image.Image, resize: Resize, turned: bool) -> Image.Image:
    width, height = rgb.size
    if resize.policy == "longest":
        # As cirtorch: on the converted image, so no draft mode, which would change pixels; never enlarges.
        rgb.thumbnail((resize.size, resize.size), Image.Resampling.LANCZOS)
        return rgb
    if resize.policy == "shortest":
        scale = resize.size / min(width, height)
        size = (max(1, int(0.5 + width * scale)), max(1, int(0.5 + height * scale)))
        return rgb.resize(size, Image.Resampling.BILINEAR)
    if resize.policy == "exact":
        size = (resize.height, resize.width) if turned else (resize.width, resize.height)
        return rgb.resize(size, Image.Resampling.BILINEAR)
    return rgb


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "cannot identify image file" in text:
        return "not an image of an allowed format"
    if "truncated" in text.lower():
        return "truncated"
    return f"cannot be decoded: {re.sub(r'0x[0-9a-f]+', '0x', text)[:120] or type(error).__name__}"


__all__ = ["Decoded", "Limits", "Resize", "decode", "pixels_of"]
