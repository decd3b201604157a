"""The input image as the client's callers have it, to the encoded bytes that travel."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from zoetrope_core.contract import unwrap_base64
from zoetrope_core.errors import InvalidImage

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image | npt.NDArray[Any]"
"""A path, encoded bytes, a binary file, a PIL image, or u8 [H,W], [H,W,3] or [H,W,4]."""

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_ALLOWED = "a path, encoded bytes, a binary file, a PIL image or a uint8 array [H,W], [H,W,3] or [H,W,4]"


def read_image(source: Any) -> bytes:
    """The encoded image; PIL images and arrays become PNG, base64 is decoded, the rest travels as it is.

    Args:
        source: see `ImageSource`.

    Raises:
        InvalidImage: not one of these, or empty.
        OSError: the file cannot be read.
    """
    # The server answers base64 with base64, for JSON clients; this client wants bytes.
    data = unwrap_base64(_read(source))
    if not data:
        raise InvalidImage("image: got 0 bytes, allowed is an encoded JPEG, PNG or WebP", field="image")
    return data


def _read(source: Any) -> bytes:
    from PIL.Image import Image

    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return Path(source).read_bytes()
    if isinstance(source, Image):
        return _png(source)
    if isinstance(source, np.ndarray):
        return _png(_from_array(source))
    content = source.read() if hasattr(source, "read") else None
    if not isinstance(content, bytes):
        raise _invalid(type(source if content is None else content).__name__)
    return content


def _from_array(array: npt.NDArray[Any]) -> Image:
    from PIL.Image import fromarray

    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise _invalid(f"{array.dtype} {list(array.shape)}")
    return fromarray(np.ascontiguousarray(array[..., 0] if array.ndim == 3 and channels == 1 else array))


def _png(image: Image) -> bytes:
    """The image as PNG, upright (PNG readers disagree about EXIF), in a mode that PNG has."""
    from PIL.ImageOps import exif_transpose

    upright = exif_transpose(image)
    if upright.mode not in _PNG_MODES:
        upright = upright.convert("RGB")
        upright.info.pop("icc_profile", None)
    buffer = io.BytesIO()
    upright.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _invalid(got: str) -> InvalidImage:
    return InvalidImage(
        f"image: got {got}, allowed is {_ALLOWED}", field="image", value=got, allowed=_ALLOWED
    )
