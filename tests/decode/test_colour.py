"""Profiles, grey of many bits, transparency: against colours worked out here, and against Little CMS's own."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.decode import Rendering, Resize, decode
from tests.builders import encoded, picture

NONE = Resize.parse("none")
SRGB = Rendering(colour="srgb")
Tag = tuple[bytes, bytes]


def profile(space: bytes, pcs: bytes, kind: bytes, tags: list[Tag]) -> bytes:
    """An ICC profile of version 2."""
    white = (b"wtpt", b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249))
    tags = [(b"desc", b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)), white, *tags]
    tags.append((b"cprt", b"text" + bytes(4) + b"none\0"))
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for name, body in tags:
        table += name + struct.pack(">II", start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    head = struct.pack(">I", start + len(data)) + b"none\x02\x40\0\0" + kind + space + pcs
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + data


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256)) + bytes(2)


def rgb_profile(primaries: np.ndarray, power: float) -> bytes:
    tags = [
        (name + b"XYZ", b"XYZ " + bytes(4) + fixed(*xyz))
        for name, xyz in zip((b"r", b"g", b"b"), primaries, strict=True)
    ]
    return profile(b"RGB ", b"XYZ ", b"mntr", [*tags, *((name + b"TRC", gamma(power)) for name in (b"r", b"g", b"b"))])


P3 = np.array([[0.5151, 0.2412, -0.0011], [0.2920, 0.6922, 0.0419], [0.1571, 0.0666, 0.7841]])
SRGB_D50 = np.array([[0.4361, 0.2225, 0.0139], [0.3851, 0.7169, 0.0971], [0.1431, 0.0606, 0.7141]])
GREY = profile(b"GRAY", b"XYZ ", b"mntr", [(b"kTRC", gamma(1.5))])


def to_srgb(pixels: np.ndarray, primaries: np.ndarray, power: float) -> np.ndarray:
    linear = np.clip((pixels / 255) ** power @ primaries @ np.linalg.inv(SRGB_D50), 0, 1)
    return np.asarray(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def press_profile() -> bytes:
    """A CMYK profile whose only colours are greys: lightness falls with the inks, black most of all."""
    inks = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    lightness = (1 - inks[:, 3]) * (1 - inks[:, :3].mean(axis=1))
    clut = np.stack([255 * lightness, np.full(16, 128), np.full(16, 128)], axis=1).astype(np.uint8).tobytes()
    ramp = bytes(range(256))
    body = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + 4 * ramp + clut + 3 * ramp
    return profile(b"CMYK", b"Lab ", b"prtr", [(b"A2B0", body), (b"A2B1", body)])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_wide_profile_is_converted_to_srgb(kind: str) -> None:
    image = picture(1)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(image, kind, icc_profile=rgb_profile(P3, 2.2), **options)
    expected = to_srgb(np.asarray(image).astype(float), P3, round(2.2 * 256) / 256)
    found = decode(data, NONE, rendering=SRGB).pixels
    assert np.abs(found - expected).max() <= 3
    assert np.abs(np.asarray(image) - expected).max() > 10
    np.testing.assert_array_equal(decode(data, NONE).pixels, np.asarray(image))


def test_a_profile_of_a_jpeg_is_applied_to_the_resized_image() -> None:
    data = encoded(picture(2, 640, 480), "JPEG", quality=95, icc_profile=rgb_profile(P3, 2.2))
    resize = Resize.parse("longest:64")
    plain = decode(data, resize).pixels.astype(float)
    found = decode(data, resize, rendering=SRGB)
    assert (found.width, found.height) == (640, 480)
    assert np.abs(found.pixels - to_srgb(plain, P3, round(2.2 * 256) / 256)).max() <= 3


def test_srgb_by_any_profile_changes_no_pixel() -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = picture(3)
    np.testing.assert_array_equal(
        decode(encoded(image, icc_profile=own), NONE, rendering=SRGB).pixels, np.asarray(image)
    )


@pytest.mark.parametrize(
    "bad", [b"nothing", rgb_profile(P3, 2.2)[:200], rgb_profile(P3, 2.2)[:128] + bytes(400), GREY, b"x" * (9 << 20)]
)
def test_a_profile_that_is_broken_or_of_another_kind_of_image_is_ignored(bad: bytes) -> None:
    image = picture(4)
    data = encoded(image, "TIFF", icc_profile=bad)
    np.testing.assert_array_equal(decode(data, NONE, rendering=SRGB).pixels, np.asarray(image))


def test_a_grey_profile_is_converted() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = decode(encoded(Image.fromarray(values), icc_profile=GREY), NONE, rendering=SRGB).pixels
    expected = to_srgb(np.repeat(values[..., None], 3, axis=-1).astype(float), SRGB_D50, 1.5)
    assert np.abs(found - expected).max() <= 3


def test_inks_are_converted_by_their_profile() -> None:
    inks = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    inks.paste((255, 0, 0, 0), (0, 0, 4, 8))
    data = encoded(inks, "TIFF", icc_profile=press_profile())
    found = decode(data, NONE, rendering=SRGB).pixels
    # By this profile cyan is a light grey; without one it is a colour.
    assert np.ptp(found, axis=2).max() <= 4
    assert (found[0, 0] < found[0, 7]).all()
    assert np.ptp(decode(data, NONE).pixels[0, 0]) > 100


def test_transparent_images_are_composed_in_srgb() -> None:
    image = picture(5).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 128))
    data = encoded(image, icc_profile=rgb_profile(P3, 2.2))
    opaque = decode(encoded(image.convert("RGB"), icc_profile=rgb_profile(P3, 2.2)), NONE, rendering=SRGB).pixels
    expected = opaque * (128 / 255) + 255 * (127 / 255)
    assert np.abs(decode(data, NONE, rendering=SRGB).pixels - expected).max() <= 1.5


@pytest.mark.parametrize(("background", "expected"), [("white", 255), ("black", 0), ("#808080", 128)])
def test_the_background_shows_through(background: str, expected: int) -> None:
    image = picture(6).convert("RGBA")
    image.putalpha(0)
    assert (decode(encoded(image), NONE, rendering=Rendering(background=background)).pixels == expected).all()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_of_some_bits_in_16_keeps_its_contrast(bits: int) -> None:
    values = np.linspace(0, (1 << bits) - 1, 256).round().astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        found = decode(encoded(Image.fromarray(values), kind), NONE, rendering=Rendering(grey16="scaled")).pixels
        np.testing.assert_array_equal(found[..., 0], values >> (bits - 8))
        upper = decode(encoded(Image.fromarray(values), kind), NONE).pixels
        np.testing.assert_array_equal(upper[..., 0], values >> 8)


def test_what_a_tiff_states_of_its_values_counts() -> None:
    dark = np.full((4, 4), 200, np.uint16)
    data = encoded(Image.fromarray(dark), "TIFF", tiffinfo={281: 4095})
    assert (decode(data, NONE, rendering=Rendering(grey16="scaled")).pixels == 200 >> 4).all()


def test_integers_of_32_bits_are_scaled_to_their_largest() -> None:
    values = np.array([[0, 1 << 20, (1 << 24) - 1]], np.int32)
    found = decode(encoded(Image.fromarray(values), "TIFF"), NONE, rendering=Rendering(grey16="scaled")).pixels
    assert found[0, :, 0].tolist() == [0, 16, 255]


def test_a_file_without_profile_is_the_same_in_both_ways() -> None:
    data = encoded(picture(7), "JPEG")
    np.testing.assert_array_equal(decode(data, NONE, rendering=SRGB).pixels, decode(data, NONE).pixels)
