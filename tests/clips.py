"""Clips to encode, and what is in an encoded file."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np


def decode_video(data: bytes) -> np.ndarray:
    """u8 [f, H, W, 3], by the definition of BT.709 (limited range) rather than by the library under test."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([rgb(frame.to_ndarray(), frame.height) for frame in container.decode(video=0)])


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
            "seconds": stream.duration * stream.time_base,
            "colours": (
                context.color_primaries,
                context.color_trc,
                context.colorspace,
                context.color_range,
            ),
            "metadata": {name.lower() for name in (*container.metadata, *stream.metadata)},
        }
