"""Decoding: every format and mode that arrives in practice, every refusal, and hostile bytes."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from zoetrope_core.errors import InvalidImage
from zoetrope_server.media.decode import ImageLimits, decode_image, measure_image

LIMITS = ImageLimits()


def photo(width: int = 48, height: int = 32) -> np.ndarray:
    """Smooth and different in each corner and channel, so that no flip or swap goes unseen."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (40 + 200 * x / width, 30 + 200 * y / height, 60 + 60 * (x + y) / (width + height))
    return np.stack(channels, -1).astype(np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode(data: bytes, limits: ImageLimits = LIMITS) -> np.ndarray:
    pixels = decode_image(data, limits)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.flags.c_contiguous
    return pixels


def refused(data: bytes, limits: ImageLimits = LIMITS) -> InvalidImage:
    with pytest.raises(InvalidImage) as caught:
        decode_image(data, limits)
    assert caught.value.details["field"] == "image"
    return caught.value


def distance(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b).mean())


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = header + b"".join(chunks) + png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# ---- formats and modes


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("JPEG", {"quality": 95}, 2),
        ("JPEG", {"quality": 95, "progressive": True}, 2),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 3),
    ],
)
def test_formats(format: str, options: dict[str, Any], tolerance: float) -> None:
    data = encoded(Image.fromarray(photo()), format, **options)
    assert distance(decode(data), photo()) <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    stored = photo()
    upright = {  # EXIF 2.32, tag 0x0112: which row and column of the scene the first stored ones are
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}[format]
    data = encoded(Image.fromarray(stored), format, exif=exif, **options)
    assert distance(decode(data), upright) <= 2
    assert measure_image(data, LIMITS) == upright.shape[:2]


def test_an_orientation_after_the_pixels_is_measured_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encoded(Image.fromarray(photo()))
    turned = plain[:-12] + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + plain[-12:]
    assert measure_image(turned, LIMITS) == decode(turned).shape[:2] == (48, 32)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_measuring_decodes_no_pixel(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    cut = encoded(Image.fromarray(noise), format)[:10_000]
    assert "truncated" in refused(cut).message
    assert measure_image(cut, LIMITS) == (300, 200)


@pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a" + bytes(99), photo().tobytes()])
def test_what_is_no_picture_has_no_size(data: bytes) -> None:
    with pytest.raises(InvalidImage) as caught:
        measure_image(data, LIMITS)
    assert caught.value.message == refused(data).message


def test_limits_hold_for_measuring() -> None:
    data = encoded(Image.fromarray(photo()), "JPEG")
    for limits in (ImageLimits(max_pixels=1535), ImageLimits(max_bytes=len(data) - 1)):
        with pytest.raises(InvalidImage, match="at most"):
            measure_image(data, limits)
    assert measure_image(data, ImageLimits(max_pixels=1536, max_bytes=len(data))) == (32, 48)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    data = encoded(Image.fromarray(photo()), "PNG", exif=exif)
    assert np.array_equal(decode(data), photo())


def test_broken_exif_is_ignored() -> None:
    data = encoded(Image.fromarray(photo()), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert distance(decode(data), photo()) <= 2


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_lies_over_white(format: str) -> None:
    alpha = np.zeros((32, 48), np.uint8)
    alpha[:, 16:32], alpha[:, 32:] = 128, 255
    image = Image.fromarray(np.dstack([photo(), alpha]))
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    weight = alpha[..., None] / 255
    expected = photo() * weight + 255 * (1 - weight)
    pixels = decode(encoded(image, format, **options))
    assert np.abs(pixels - expected).max() <= 1
    assert (pixels[:, :16] == 255).all()


def test_palette() -> None:
    image = Image.fromarray(photo()).quantize(64)
    assert np.array_equal(decode(encoded(image)), np.asarray(image.convert("RGB")))


def test_palette_with_transparency() -> None:
    indices = np.repeat(np.arange(3, dtype=np.uint8), 16)[None].repeat(32, 0)
    image = Image.fromarray(indices)
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 250])
    pixels = decode(encoded(image, transparency=bytes([255, 0, 51])))
    assert pixels[0, [0, 16, 32]].tolist() == [[10, 20, 30], [255, 255, 255], [204, 204, 254]]


def test_palette_with_one_transparent_entry() -> None:
    image = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8), 16)[None].repeat(32, 0))
    image.putpalette([10, 20, 30, 200, 100, 0])
    assert decode(encoded(image, transparency=1))[0, [0, 16]].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_grey() -> None:
    grey = photo()[..., 0]
    expected = np.repeat(grey[..., None], 3, -1)
    assert np.array_equal(decode(encoded(Image.fromarray(grey))), expected)
    assert distance(decode(encoded(Image.fromarray(grey), "JPEG", quality=95)), expected) <= 2


def test_grey_with_alpha() -> None:
    grey = np.full((32, 32), 100, np.uint8)
    alpha = np.zeros_like(grey)
    alpha[:, 16:] = 255
    image = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    assert decode(encoded(image))[0, [0, 16]].tolist() == [[255] * 3, [100] * 3]


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_a_transparent_colour(mode: str) -> None:
    """The tRNS chunk of an image without a palette names one colour that is transparent."""
    if mode == "1":  # rows of 16 black pixels, then 16 white; colour 0 is transparent
        data = png(32, 16, 1, 0, b"\0\0\0\xff\xff" * 16, png_chunk(b"tRNS", b"\0\0"))
        assert (decode(data) == 255).all()
        return
    image = Image.new(mode, (32, 32), 10 if mode == "L" else (10, 20, 30))
    image.paste(Image.new(mode, (16, 32), 200 if mode == "L" else (200, 0, 0)), (16, 0))
    pixels = decode(encoded(image, transparency=200 if mode == "L" else (200, 0, 0)))
    assert pixels[0, 0].tolist() == ([10] * 3 if mode == "L" else [10, 20, 30])
    assert (pixels[:, 16:] == 255).all()


def test_one_bit() -> None:
    bits = np.zeros((32, 32), bool)
    bits[:, 16:] = True
    assert decode(encoded(Image.fromarray(bits)))[0, [0, 16]].tolist() == [[0] * 3, [255] * 3]


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(32, 0)
    pixels = decode(encoded(Image.fromarray(values)))
    assert np.abs(pixels[0, :, 0] - values[0] / 257).max() <= 0.51
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    assert pixels[0, 0, 0] == 0 and pixels[0, -1, 0] == 255


def test_sixteen_bit_grey_with_a_transparent_value() -> None:
    row = struct.pack(">32H", *[1000] * 16, *[30000] * 16)
    data = png(32, 16, 16, 0, (b"\0" + row) * 16, png_chunk(b"tRNS", struct.pack(">H", 1000)))
    assert decode(data)[0, [0, 16], 0].tolist() == [255, round(30000 / 257)]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_colour(colour: int, channels: int) -> None:
    values = [20_000, 40_000, 60_000][: min(channels, 3) if channels != 2 else 1]
    values += [65535] if channels in (2, 4) else []
    data = png(16, 16, 16, colour, (b"\0" + struct.pack(f">{channels}H", *values) * 16) * 16)
    expected = [20_000] * 3 if channels == 2 else [20_000, 40_000, 60_000]
    assert np.abs(decode(data)[0, 0] - np.array(expected) / 257).max() <= 1


def test_cmyk_without_a_profile() -> None:
    for ink, colour in [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((255, 0, 0, 0), None)]:
        pixels = decode(encoded(Image.new("CMYK", (32, 32), ink), "JPEG", quality=95))
        if colour is None:
            assert np.abs(pixels[8, 8].astype(int) - [0, 255, 255]).max() <= 3
        else:
            assert np.abs(pixels.astype(int) - colour).max() <= 3


def test_of_a_multi_picture_jpeg_the_first_is_taken() -> None:
    first, second = Image.fromarray(photo()), Image.new("RGB", (48, 32), (0, 0, 255))
    data = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert distance(decode(data), photo()) <= 2


# ---- ICC


def icc_curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def icc_xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">iii", *(round(value * 65536) for value in (x, y, z)))


def icc(space: bytes, kind: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A version 2 profile (ICC.1:2001-04): header of 128 bytes, tag table, tags."""
    text = b"test\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text" + bytes(4) + text,
        b"wtpt": icc_xyz(0.9642, 1.0, 0.8249),
        **tags,
    }
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    size = start + len(body)
    white = struct.pack(">iii", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, kind, space, pcs)
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white
    return header.ljust(128, b"\0") + table + body


# sRGB's primaries, adapted to D50 (IEC 61966-2-1 through the Bradford matrix).
PRIMARIES = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]


def rgb_profile(gamma: float, order: str = "RGB") -> bytes:
    tags = {}
    for name, source in zip("rgb", order, strict=True):
        tags[f"{name}XYZ".encode()] = icc_xyz(*PRIMARIES["RGB".index(source)])
        tags[f"{name}TRC".encode()] = icc_curve(gamma)
    return icc(b"RGB ", b"mntr", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    return icc(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": icc_curve(gamma)})


def cmyk_profile() -> bytes:
    """A toy press: black ink halves lightness only, the other inks do nothing (a lut8 to Lab)."""
    ramp = bytes(range(256))
    grid = b"".join(bytes([128 if corner & 1 else 255, 128, 128]) for corner in range(16))  # K varies fastest
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + grid + ramp * 3
    return icc(b"CMYK", b"prtr", b"Lab ", {b"A2B0": lut})


def srgb_of_linear(value: float) -> float:
    encoded = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return 255 * encoded


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_an_srgb_profile_changes_nothing(format: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options: dict[str, Any] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(format, {})
    data = encoded(Image.fromarray(photo()), format, icc_profile=profile, **options)
    assert distance(decode(data), photo()) <= 2


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_rgb_profile_is_converted(format: str) -> None:
    """Linear light, with red and blue exchanged."""
    image = Image.new("RGB", (32, 32), (128, 64, 255))
    options = {"lossless": True} if format == "WEBP" else {}
    pixels = decode(encoded(image, format, icc_profile=rgb_profile(1.0, "BGR"), **options))
    expected = [srgb_of_linear(value / 255) for value in (255, 64, 128)]
    assert np.abs(pixels[4, 4] - np.array(expected)).max() <= 2


def test_a_profile_applies_under_alpha() -> None:
    image = Image.new("RGBA", (32, 32), (64, 64, 64, 255))
    image.paste((64, 64, 64, 0), (16, 0, 32, 32))
    pixels = decode(encoded(image, icc_profile=rgb_profile(1.0)))
    assert np.abs(pixels[0, 0] - srgb_of_linear(64 / 255)).max() <= 2
    assert (pixels[:, 16:] == 255).all()


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_profile_is_converted(mode: str) -> None:
    image = Image.new(mode, (32, 32), 64 if mode == "L" else (64, 255))
    pixels = decode(encoded(image, icc_profile=grey_profile(1.0)))
    assert np.abs(pixels[0, 0] - srgb_of_linear(64 / 255)).max() <= 2


def test_an_rgb_profile_on_a_grey_image_is_converted() -> None:
    pixels = decode(encoded(Image.new("L", (32, 32), 64), icc_profile=rgb_profile(1.0)))
    assert np.abs(pixels[0, 0] - srgb_of_linear(64 / 255)).max() <= 2


def test_a_cmyk_profile_is_converted() -> None:
    """Under the toy press cyan is white paper; under Pillow's own conversion it is cyan."""
    image = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    pixels = decode(encoded(image, "JPEG", quality=95, icc_profile=cmyk_profile()))
    assert np.abs(pixels[8, 8].astype(int) - 255).max() <= 3


@pytest.mark.parametrize(
    "profile",
    [b"not a profile", rgb_profile(1.0)[:200], rgb_profile(1.0)[:128] + b"\xff" * 400, cmyk_profile()],
    ids=["text", "cut", "overwritten", "other colour space"],
)
def test_a_profile_that_cannot_apply_is_ignored(profile: bytes) -> None:
    data = encoded(Image.fromarray(photo()), "PNG", icc_profile=profile)
    assert np.array_equal(decode(data), photo())


# ---- refusals


def test_empty() -> None:
    assert "empty" in refused(b"").message


def test_not_an_image() -> None:
    assert "not an image" in refused(b"Dear server, please find the picture attached.").message
    assert "not an image" in refused(b"\0" * 100).message
    assert "not an image" in refused(b"RIFF\x10\0\0\0WAVEfmt ").message


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "AVIF", "ICO", "PDF"])
def test_other_formats_are_named(format: str) -> None:
    error = refused(encoded(Image.fromarray(photo()), format))
    assert error.message.startswith(f"{format} is not supported")
    assert error.details["allowed"] == ["JPEG", "PNG", "WEBP"]


def test_too_many_bytes() -> None:
    data = encoded(Image.fromarray(photo()))
    error = refused(data, ImageLimits(max_bytes=len(data) - 1))
    assert error.details["value"] == len(data) and error.details["allowed"] == len(data) - 1
    assert str(len(data)) in error.message
    assert decode(data, ImageLimits(max_bytes=len(data))).shape == (32, 48, 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
def test_too_many_pixels(format: str, lossless: bool, alpha: bool) -> None:
    image = Image.fromarray(photo())
    if alpha and format != "JPEG":
        image.putalpha(Image.new("L", image.size, 100))
    data = encoded(image, format, **({"lossless": lossless} if format == "WEBP" else {}))
    error = refused(data, ImageLimits(max_pixels=48 * 32 - 1))
    assert error.details["value"] == 48 * 32 and error.details["allowed"] == 48 * 32 - 1
    assert "48x32" in error.message
    assert decode(data, ImageLimits(max_pixels=48 * 32)).shape == (32, 48, 3)


def test_bombs_are_refused_by_their_headers() -> None:
    error = refused(png(60_000, 60_000, 8, 2, b""))
    assert "60000x60000" in error.message and error.details["allowed"] == LIMITS.max_pixels
    jpeg = bytearray(encoded(Image.fromarray(photo()), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    assert "too many pixels" in refused(bytes(jpeg)).message
    jpeg[at : at + 4] = struct.pack(">HH", 10_000, 10_000)  # within Pillow's error, above its warning
    assert "too many pixels" in refused(bytes(jpeg)).message
    canvas = b"\x10\0\0\0" + (16_382).to_bytes(3, "little") * 2
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"VP8L" + bytes(20)
    assert "16383x16383" in refused(b"RIFF" + struct.pack("<I", len(webp)) + webp).message


def test_too_small() -> None:
    assert "at least 16" in refused(encoded(Image.new("RGB", (15, 400)))).message
    assert "at least 16" in refused(encoded(Image.new("RGB", (400, 15)))).message
    assert decode(encoded(Image.new("RGB", (16, 16)))).shape == (16, 16, 3)
    assert decode(encoded(Image.new("RGB", (16, 4000)))).shape == (4000, 16, 3)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations(format: str) -> None:
    frames = [Image.new("RGB", (32, 32), (50 * i, 0, 0)) for i in range(3)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=100)
    assert f"animated {format}" in refused(data).message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.9, 0.99])
def test_truncated(format: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    error = refused(data[: int(len(data) * part)])
    assert "truncated" in error.message and format in error.message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_last_bytes_count(format: str) -> None:
    data = encoded(Image.fromarray(photo()), format)
    for missing in (1, 2, 4, 8, 12, 20):
        assert "truncated" in refused(data[:-missing]).message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_bytes_after_the_end_do_not_matter(format: str) -> None:
    """Phones append the video of a motion photo."""
    data = encoded(Image.fromarray(photo()), format)
    assert np.array_equal(decode(data + b"more" * 1000), decode(data))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_header_alone_is_truncated(format: str) -> None:
    data = encoded(Image.fromarray(photo()), format)
    for size in (12, 14, 20, 28):
        assert "truncated" in refused(data[:size]).message


def test_damaged() -> None:
    data = encoded(Image.fromarray(photo()))
    at = data.index(b"IDAT") + 20
    assert "damaged" in refused(data[:at] + bytes(8) + data[at + 8 :]).message


def test_limits_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        ImageLimits(max_bytes=0)
    with pytest.raises(ValueError, match="Pillow"):
        ImageLimits(max_pixels=10**9)


# ---- hostile bytes


def seeds() -> list[bytes]:
    image = Image.fromarray(photo())
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = image.copy()
    alpha.putalpha(Image.new("L", image.size, 100))
    return [
        encoded(image, "JPEG", exif=exif, icc_profile=rgb_profile(1.0)),
        encoded(image, "JPEG", progressive=True),
        encoded(image.convert("CMYK"), "JPEG", icc_profile=cmyk_profile()),
        encoded(image, "MPO", save_all=True, append_images=[image]),
        encoded(alpha, "PNG", exif=exif, icc_profile=rgb_profile(1.0)),
        encoded(image.quantize(16), "PNG", transparency=3),
        encoded(Image.fromarray(photo().astype(np.uint16)[..., 0] * 200), "PNG"),
        encoded(alpha, "WEBP", lossless=True, exif=exif, icc_profile=rgb_profile(1.0)),
        encoded(image, "WEBP"),
    ]


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    bad = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(bad))
        kind = rng.randrange(5)
        if kind == 0:
            bad[at] = rng.randrange(256)
        elif kind == 1:
            bad[at : at + 4] = struct.pack(">I", rng.choice([0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
        elif kind == 2:
            del bad[at : at + rng.randint(1, 40)]
        elif kind == 3:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            bad[at:at] = other[start : start + rng.randint(1, 40)]
        else:
            del bad[max(at, 16) :]
        if not bad:
            break
    return bytes(bad)


def test_hostile_bytes_are_decoded_or_refused() -> None:
    rng, originals = random.Random(7), seeds()
    limits = ImageLimits(max_pixels=1_000_000)
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(2500):
        data = mutate(rng.choice(originals), rng, originals)
        try:
            pixels = decode_image(data, limits)
        except InvalidImage as error:
            assert error.details["field"] == "image" and error.message
            outcomes["refused"] += 1
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            outcomes["decoded"] += 1
    assert min(outcomes.values()) > 100, outcomes  # a loop that only refuses, or never, tests nothing
