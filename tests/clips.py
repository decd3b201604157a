"""Clips to encode, and what is in an encoded file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageSequence

PHOTO = Path(__file__).parents[1] / "demo" / "photo.jpg"
BARS = [(255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255)]


def decode_video(data: bytes) -> np.ndarray:
    """u8 [f, H, W, 3], by the definition of BT.709 (limited range) rather than by the library under test."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([rgb(frame.to_ndarray(), frame.height) for frame in container.decode(video=0)])


def decode(data: bytes, format: str, shape: tuple[int, ...]) -> np.ndarray:
    """u8 [f, H, W, 3] of a file in any format; what is raw has the shape that is given."""
    if format == "raw":
        return np.frombuffer(data, np.uint8).reshape(shape)
    if format in ("png", "jpeg"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pictures = [Image.open(io.BytesIO(archive.read(name))) for name in sorted(archive.namelist())]
        return np.stack([np.asarray(picture) for picture in pictures])
    if format in ("gif", "webp"):
        return np.stack([np.asarray(frame.convert("RGB")) for frame in _animation(data)])
    return decode_video(data)


def durations(data: bytes) -> list[int]:
    """Milliseconds of each frame of an animated GIF or WebP."""
    return [frame.info["duration"] for frame in _animation(data)]


def _animation(data: bytes) -> Iterator[Image.Image]:
    image = Image.open(io.BytesIO(data))
    assert getattr(image, "n_frames", 1) == 1 or image.info["loop"] == 0, "repeats for ever"
    for frame in ImageSequence.Iterator(image):
        frame.load()
        yield frame


def rgb(planes: np.ndarray, height: int) -> np.ndarray:
    """yuv420p as PyAV stacks it -> u8 [H, W, 3]; ITU-R BT.709-6, items 3.2 to 3.5."""
    width = planes.shape[1]
    luma = (planes[:height].astype(float) - 16) / 219
    chroma = planes[height:].reshape(2, height // 2, width // 2).astype(float)
    cb, cr = (np.kron(plane, np.ones((2, 2))) / 224 for plane in chroma - 128)
    red, blue = luma + 1.5748 * cr, luma + 1.8556 * cb
    green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152
    return (np.stack([red, green, blue], -1) * 255).round().clip(0, 255).astype(np.uint8)


def gradient(height: int = 128, width: int = 448) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 255 - 255 * x / width], -1).astype(np.uint8)


def bars(height: int = 128, width: int = 448) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for number, colour in enumerate(BARS):
        image[:, number * width // 7 : (number + 1) * width // 7] = colour
    return image


def panning(frames: int, height: int = 288, width: int = 416) -> np.ndarray:
    """Frames of a real photo, each a little further to the right and down."""
    size = (width + 4 * frames, height + 2 * frames)
    photo = np.asarray(Image.open(PHOTO).convert("RGB").resize(size, Image.Resampling.LANCZOS))
    return np.stack([photo[2 * n : 2 * n + height, 4 * n : 4 * n + width] for n in range(frames)])


def moving(frames: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.stack([np.roll(gradient(height, width), 5 * shift, 1) for shift in range(frames)])


def stream_of(data: bytes) -> dict[str, Any]:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        return {
            "streams": len(container.streams),
            "codec": context.name,
            "size": (stream.height, stream.width),
            "pixels": context.pix_fmt,
            "rate": stream.average_rate,
            "seconds": stream.duration and stream.duration * stream.time_base,
            "colours": (
                context.color_primaries,
                context.color_trc,
                context.colorspace,
                context.color_range,
            ),
            "metadata": {name.lower() for name in (*container.metadata, *stream.metadata)},
        }
