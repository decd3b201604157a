"""A few small frames to an animated WebP."""

from __future__ import annotations

import io
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

Frames: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

TINY = 64
"""Frames whose shorter side has fewer pixels are shown twice as large."""
_QUALITY, _METHOD = 75, 0  # the fastest of WebP's methods: a preview is looked at once


def animated_webp(frames: Frames, *, fps: int) -> bytes:
    """Encodes frames that repeat for ever.

    Blocking; call it from a thread. Equal neighbours may become one frame that lasts longer.

    Args:
        frames: u8 [F,h,w,3] sRGB, F at least 1.
        fps: frames per second.

    Returns:
        The file, of the frames' size, or of twice that where they are `TINY`.
    """
    images = [Image.fromarray(frame) for frame in frames]
    if min(images[0].size) < TINY:
        width, height = images[0].size
        images = [image.resize((2 * width, 2 * height), Image.Resampling.BICUBIC) for image in images]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=round(1000 / fps),
        loop=0,
        quality=_QUALITY,
        method=_METHOD,
    )
    return buffer.getvalue()
