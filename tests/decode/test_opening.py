"""What is opened at all: formats, sizes as the header states them and as they are decoded, texts beside pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.core.errors import BadImageError
from pipeline.decode import Limits, Resize, decode, needed
from pipeline.decode.png import without_texts
from tests.builders import encoded, picture

NONE, SMALL = Resize.parse("none"), Resize.parse("longest:100")


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_formats_of_phones_museums_and_research_are_decoded(kind: str, mode: str) -> None:
    image = picture(1, mode=mode)
    found = decode(encoded(image, kind), NONE).pixels
    assert np.abs(found.astype(int) - np.asarray(image.convert("RGB"))).mean() < 4


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "PPM"])
def test_a_truncated_file_of_these_formats_is_refused(kind: str) -> None:
    data = encoded(picture(2, 200, 150), kind)
    with pytest.raises(BadImageError):
        decode(data[: len(data) // 3], NONE)


def test_a_bitmap_and_plain_text_pixels_are_decoded() -> None:
    assert decode(encoded(picture(3, mode="1"), "PPM"), NONE).pixels.shape == (48, 64, 3)
    assert decode(b"P2 2 1 9 0 9", NONE).pixels.tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("most", [7, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("magic", ["P5", "P6"])
def test_pnm_is_scaled_by_its_largest_value(most: int, magic: str) -> None:
    bands = 3 if magic == "P6" else 1
    values = np.linspace(0, most, 24).round().repeat(bands)
    body = values.astype(">u2" if most > 255 else "u1").tobytes()
    found = decode(f"{magic} 6 4 {most}\n".encode() + body, NONE).pixels
    expected = (values * 255 / most).reshape(4, 6, bands)
    assert np.abs(found - expected).max() <= 1


def test_a_large_pnm_takes_no_time_of_python() -> None:
    data = b"P6 2000 1500 1000\n" + bytes(2000 * 1500 * 6)
    assert decode(data, SMALL).pixels.shape == (75, 100, 3)
    with pytest.raises(BadImageError, match="truncated"):
        decode(data[:-1], SMALL)


def test_the_codestream_of_a_jpeg_2000_counts_as_well_as_its_box() -> None:
    data = bytearray(encoded(picture(4), "JPEG2000"))
    place = data.index(b"\xff\x4f\xff\x51") + 8
    data[place : place + 8] = struct.pack(">2I", 40000, 40000)
    with pytest.raises(BadImageError, match="larger than 64 megapixels"):
        decode(bytes(data), NONE)


def test_a_format_whose_library_is_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(5), "AVIF")
    factory, _ = Image.OPEN["AVIF"]
    monkeypatch.setitem(Image.OPEN, "AVIF", (factory, lambda _: "AVIF support is not installed"))
    with pytest.raises(BadImageError, match="AVIF cannot be decoded by the Pillow that is installed"):
        decode(data, NONE)


def photograph(**options: object) -> bytes:
    return encoded(picture(6, 1200, 800), "JPEG", quality=90, **options)


def test_reduced_decoding_is_judged_by_the_size_decoded() -> None:
    limits = Limits(max_pixels=100_000)
    with pytest.raises(BadImageError, match=r"larger than 0\.1 megapixels: 1200x800"):
        decode(photograph(), SMALL, limits)
    found = decode(photograph(), SMALL, limits, reduced=True)
    assert (found.width, found.height, found.pixels.shape) == (1200, 800, (67, 100, 3))
    # Nothing is left out where all pixels are wanted, and of other formats nothing can be.
    for data, resize in ((photograph(), NONE), (encoded(picture(6, 1200, 800)), SMALL)):
        with pytest.raises(BadImageError, match="larger than"):
            decode(data, resize, limits, reduced=True)


def test_a_jpeg_far_above_the_bound_is_refused_also_when_reduced() -> None:
    with pytest.raises(BadImageError, match="larger than"):
        decode(photograph(), SMALL, Limits(max_pixels=50_000), reduced=True)


def test_half_of_a_progressive_jpeg_counts_since_its_coefficients_are_kept() -> None:
    data = photograph(progressive=True)
    with pytest.raises(BadImageError, match="larger than"):
        decode(data, SMALL, Limits(max_pixels=400_000), reduced=True)
    assert decode(data, SMALL, Limits(max_pixels=500_000), reduced=True).width == 1200


def test_a_picture_with_a_second_one_inside_is_reduced_where_it_would_be_too_large() -> None:
    image = picture(6, 1200, 800)
    out = io.BytesIO()
    image.save(out, "MPO", save_all=True, append_images=[image.resize((300, 200))])
    limits = Limits(max_pixels=100_000)
    assert decode(out.getvalue(), SMALL, limits, reduced=True).pixels.shape == (67, 100, 3)
    with pytest.raises(BadImageError):
        decode(out.getvalue(), SMALL, limits)


def test_a_bound_above_pillows_own_is_ours() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = (20000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(BadImageError, match="larger than 300 megapixels: 20000x20000"):
        decode(data, SMALL, Limits(max_pixels=300_000_000))


def test_memory_is_that_of_the_size_decoded_and_of_the_size_resized_to() -> None:
    data = photograph()
    full = needed(data, SMALL, Limits(), reduced=False)
    assert full >= 7 * 1200 * 800
    assert needed(data, SMALL, Limits(), reduced=True) < full / 10
    assert needed(encoded(picture(7, 1200, 800), "PNG"), SMALL, Limits(), reduced=False) >= 10 * 1200 * 800
    for kind in ("PNG", "WEBP"):
        opaque = encoded(picture(7, 1200, 800), kind)
        transparent = encoded(picture(7, 1200, 800).convert("RGBA").rotate(45), kind)
        more = needed(transparent, SMALL, Limits(), reduced=False) - needed(opaque, SMALL, Limits(), reduced=False)
        assert more == 10 * 1200 * 800
    enlarged = needed(encoded(picture(7, 40, 30)), Resize.parse("shortest:1000"), Limits(), reduced=False)
    assert enlarged >= 8 * 1333 * 1000
    assert needed(photograph(progressive=True), SMALL, Limits(), reduced=True) >= 6 * 1200 * 800
    assert needed(b"nothing", SMALL, Limits(), reduced=False) == 0


def test_texts_and_profiles_of_any_size_do_not_cost_a_png_its_picture() -> None:
    noise = np.random.default_rng(0).integers(32, 127, 3_000_000, dtype=np.uint8).tobytes().decode()
    texts = PngInfo()
    texts.add_itxt("workflow", noise, zip=True)
    texts.add_text("prompt", "x" * 5_000_000, zip=True)
    plain = decode(encoded(picture(8)), NONE).pixels
    np.testing.assert_array_equal(decode(encoded(picture(8), pnginfo=texts), NONE).pixels, plain)
    np.testing.assert_array_equal(decode(encoded(picture(8), icc_profile=noise.encode()), NONE).pixels, plain)
    many = PngInfo()
    for number in range(80):
        many.add_text(f"part {number}", "x" * 1_000_000, zip=True)
    np.testing.assert_array_equal(decode(encoded(picture(8), pnginfo=many), NONE).pixels, plain)


def test_the_orientation_outlives_large_texts() -> None:
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    texts.add_text("prompt", "x" * 5_000_000, zip=True)
    assert decode(encoded(picture(9, 60, 40), pnginfo=texts), NONE).pixels.shape == (60, 40, 3)


def test_what_is_left_of_a_png_without_texts_is_bounded() -> None:
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", "x" * 50_000_000, zip=True)
    data, profile = without_texts(encoded(picture(9), pnginfo=texts, icc_profile=b"p" * 1000))
    assert (b"iTXt" in data, profile) == (False, b"p" * 1000)
    assert without_texts(b"\x89PNG\r\n\x1a\n" + b"\xff" * 50)[1] == b""


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "AVIF"])
def test_large_profiles_do_not_cost_other_formats_their_picture(kind: str) -> None:
    assert decode(encoded(picture(8), kind, icc_profile=bytes(2_000_000)), NONE).width == 64
