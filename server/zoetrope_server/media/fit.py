"""The input image brought to the video's size."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image

from zoetrope_core.errors import InvalidRequest

FitMode: TypeAlias = Literal["crop", "pad", "stretch"]
Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

# Pillow may first shrink by an integer factor with a box filter, down to this many times the target, and
# resize from there: several times faster on photos, and indistinguishable from 3.0 on.
_REDUCING_GAP = 3.0


def fit(image: Pixels, size: tuple[int, int], mode: FitMode = "crop") -> Pixels:
    """Bring an image to a size, with Lanczos resampling.

    Args:
        image: u8 [H, W, 3].
        size: (height, width) of the result.
        mode: "crop" cuts the centre to the target's aspect ratio and resizes; "pad" fits the whole image
            inside and fills the rest with black; "stretch" ignores the aspect ratio.

    Returns:
        u8 [height, width, 3]; the image itself, not a copy, when it has that size already.

    Raises:
        InvalidRequest: an unknown mode; field "fit".
    """
    if mode not in get_args(FitMode):
        raise InvalidRequest(
            f"unknown fit {mode!r}", field="fit", value=mode, allowed=list(get_args(FitMode))
        )
    if image.shape[:2] == size:
        return image
    if mode == "pad":
        return _pad(image, size)
    height, width = image.shape[:2]
    box = (0.0, 0.0, float(width), float(height)) if mode == "stretch" else _centre(image, size)
    return _resize(image, size, box)


def _resize(image: Pixels, size: tuple[int, int], box: tuple[float, float, float, float]) -> Pixels:
    height, width = size
    resized = Image.fromarray(image).resize(
        (width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=_REDUCING_GAP
    )
    return np.asarray(resized)


def _centre(image: Pixels, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest centred box of the target's aspect ratio: (left, top, right, bottom), fractional pixels."""
    height, width = image.shape[:2]
    scale = min(height / size[0], width / size[1])
    crop_height, crop_width = size[0] * scale, size[1] * scale
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    # Rounding may put an edge a hair outside, which Pillow refuses.
    return max(left, 0.0), max(top, 0.0), min(left + crop_width, width), min(top + crop_height, height)


def _pad(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Letterbox: the whole image inside, centred, at least one pixel wide and high; black around it."""
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    inner = (max(1, min(size[0], round(height * scale))), max(1, min(size[1], round(width * scale))))
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas[top : top + inner[0], left : left + inner[1]] = (
        image if inner == (height, width) else _resize(image, inner, (0.0, 0.0, float(width), float(height)))
    )
    return canvas
