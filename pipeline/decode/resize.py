"""Resize policies: what they ask of an image, what that would take, and how it is done. Nothing is decoded here."""

from __future__ import annotations

import re
from typing import Literal, Self

from PIL import Image
from pydantic import BaseModel, ConfigDict

from pipeline.core.errors import BadImageError, UserError

ENLARGED_PIXELS = 16_000_000
"""An image is not enlarged beyond this, unless the policy's own square is larger."""
STRIP_ASPECT, STRIP_PIXELS = 100, 1_000_000
"""Images whose sides differ by more than this factor are enlarged to so many pixels only: what grows is a line."""


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
        """Return about the size that an image of this size will have, where that is not larger than it is."""
        if self.policy == "exact":
            return self.width, self.height
        if self.policy == "none":
            return width, height
        side = max(width, height) if self.policy == "longest" else min(width, height)
        scale = min(1.0, self.size / side)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def result(self, width: int, height: int) -> tuple[int, int]:
        """Return the size that an image of this size will have, up to rounding, also where it is enlarged."""
        if self.policy != "shortest":
            return self.target(width, height)
        scale = self.size / min(width, height)
        return max(1, int(0.5 + width * scale)), max(1, int(0.5 + height * scale))

    def checked(self, width: int, height: int, most: int) -> tuple[int, int]:
        """Return `result`; BadImageError where it has more than `most` pixels, or is an enlargement out of bounds."""
        across, down = self.result(width, height)
        enlarged = self.policy == "shortest" and min(width, height) < self.size
        if enlarged:
            most = min(most, max(ENLARGED_PIXELS, 4 * self.size**2))
            if max(width, height) > STRIP_ASPECT * min(width, height):
                most = min(most, STRIP_PIXELS)
        if across * down > most:
            what = "too narrow to be enlarged" if enlarged else "resized to too many pixels"
            raise BadImageError(f"{what}: {width}x{height}, {self} makes {across}x{down} of it")
        return across, down

    def apply(self, image: Image.Image, turned: bool) -> Image.Image:
        """Return the image resized; turned: its sides are exchanged afterwards."""
        if self.policy == "longest":
            # As cirtorch: on the converted image, so no draft mode, which would change pixels; never enlarges.
            image.thumbnail((self.size, self.size), Image.Resampling.LANCZOS)
            return image
        if self.policy == "shortest":
            return image.resize(self.result(*image.size), Image.Resampling.BILINEAR)
        if self.policy == "exact":
            size = (self.height, self.width) if turned else (self.width, self.height)
            return image.resize(size, Image.Resampling.BILINEAR)
        return image

    def __str__(self) -> str:
        if self.policy == "none":
            return "none"
        return f"exact:{self.width}x{self.height}" if self.policy == "exact" else f"{self.policy}:{self.size}"


__all__ = ["Resize"]
