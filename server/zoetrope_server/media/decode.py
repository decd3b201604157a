"""From the bytes a client sent to sRGB pixels. A pure function; it runs inside a decode worker.

The order is the defence: bytes are counted first, the signature is read, the pixels are counted from the
header, and only then is anything decoded. Metadata (EXIF, ICC) that cannot be read is ignored; pixels that
cannot be read refuse the image.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

# Named so that they are registered: Pillow would otherwise import every plugin to find WebP.
from PIL import Image, ImageCms, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin

from zoetrope_core.errors import InvalidImage
from zoetrope_server.media.signatures import ACCEPTED, format_of, header_size, is_truncated, png_exif

logger = logging.getLogger(__name__)
T = TypeVar("T")

MIN_SIDE = 16
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, the paper most cut-out pictures are made for."""

_PLUGINS = (JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin)
_PILLOW_GUARD = 89_478_485  # PIL.Image.MAX_IMAGE_PIXELS: above it, Pillow itself refuses
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THE_SIDE = range(5, 9)
_MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_EIGHT_OF_SIXTEEN = np.round(np.arange(65536) / 257).astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What one image may cost. `timeout_s` and `memory_bytes` are enforced by `DecodeWorkers`.

    Attributes:
        max_bytes: size of the encoded image.
        max_pixels: width times height, as the header claims it; at most Pillow's own guard (89 MP).
        timeout_s: wall-clock seconds one image may take to decode.
        memory_bytes: address space a worker may take beyond what it needs when idle.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    timeout_s: float = 5.0
    memory_bytes: int = 2**30

    def __post_init__(self) -> None:
        """Refuse limits that could not be kept.

        Raises:
            ValueError: a limit is not positive, or `max_pixels` is above Pillow's guard.
        """
        if min(self.max_bytes, self.max_pixels, self.timeout_s, self.memory_bytes) <= 0:
            raise ValueError("image limits must be positive")
        if self.max_pixels > _PILLOW_GUARD:
            raise ValueError(f"max_pixels cannot be more than {_PILLOW_GUARD}, where Pillow refuses")


def decode_image(data: bytes, limits: ImageLimits) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode a JPEG, PNG or WebP still into upright, opaque sRGB.

    EXIF orientation is applied, an ICC profile is converted to sRGB, transparency is laid over white, and
    of a multi-picture JPEG (MPO) the first picture is taken.

    Args:
        data: the encoded image.
        limits: what the image may cost; bytes and pixels are checked here.

    Returns:
        u8 [H, W, 3], sRGB.

    Raises:
        InvalidImage: whatever is wrong with it, in words for the person who sent it; field "image".
    """
    return _guarded(_decode, data, limits)


def measure_image(data: bytes, limits: ImageLimits) -> tuple[int, int]:
    """The (H, W) that `decode_image` would give, with no pixel decoded: damaged ones are not noticed.

    Args:
        data: the encoded image.
        limits: what the image may cost; bytes and pixels are checked here.

    Raises:
        InvalidImage: as for `decode_image`.
    """
    return _guarded(_measure, data, limits)


def _guarded(read: Callable[[bytes, str, ImageLimits], T], data: bytes, limits: ImageLimits) -> T:
    """What `read` makes of data of an accepted format; whatever it raises becomes InvalidImage."""
    check_bytes(data, limits)
    name = format_of(data)
    if name not in ACCEPTED:
        raise refusal(_unsupported(name), allowed=list(ACCEPTED))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return read(data, name, limits)
    except InvalidImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise refusal("the image has too many pixels", allowed=limits.max_pixels) from None
    except Exception as error:
        logger.debug("decoding failed", exc_info=True)
        raise refusal(_complaint(error, name, data)) from error


def check_bytes(data: bytes, limits: ImageLimits) -> None:
    """Refuse an image that is empty or larger than the limit, before anything looks into it.

    Raises:
        InvalidImage: no bytes, or more than `limits.max_bytes`.
    """
    if not data:
        raise refusal("the image is empty")
    if len(data) > limits.max_bytes:
        message = f"the image has {len(data)} bytes; at most {limits.max_bytes} are allowed"
        raise refusal(message, value=len(data), allowed=limits.max_bytes)


def refusal(message: str, **details: Any) -> InvalidImage:
    """An `InvalidImage` about the field `image`."""
    return InvalidImage(message, field="image", **details)


def _unsupported(name: str | None) -> str:
    if name is None:
        return "the data is not an image in a known format; send JPEG, PNG or WebP"
    return f"{name} is not supported; send JPEG, PNG or WebP"


def _complaint(error: Exception, name: str, data: bytes) -> str:
    """What to tell the client about a decoder's error."""
    if isinstance(error, MemoryError) or "memory" in str(error):
        return "decoding the image needs more memory than is allowed"
    if "truncated" in str(error).lower() or is_truncated(name, data):
        return f"the {name} file is truncated"
    return f"the {name} file is damaged and cannot be decoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Still:
    """A decoded picture before anything is applied: colours are mode L, RGB or CMYK, alpha is mode L."""

    colours: Image.Image
    alpha: Image.Image | None
    profile: bytes | None
    orientation: int


def _measure(data: bytes, name: str, limits: ImageLimits) -> tuple[int, int]:
    _check_size(header_size(name, data), limits)
    with Image.open(io.BytesIO(data), formats=(name,)) as image:
        width, height = image.size
        _check_size((width, height), limits)
        if name == "PNG" and (exif := png_exif(data)):
            image.info["exif"] = exif
        # Not the PNG plugin's own method, which decodes the pixels to look behind them.
        orientation = _orientation(partial(Image.Image.getexif, image))
        return (width, height) if orientation in _ON_THE_SIDE else (height, width)


def _decode(data: bytes, name: str, limits: ImageLimits) -> np.ndarray[Any, np.dtype[np.uint8]]:
    still = _read(data, name, limits)
    upright, alpha = _ORIENTATIONS.get(still.orientation), still.alpha
    image = _to_srgb(still.colours, still.profile)
    del still  # 200 MB of the largest image allowed
    if alpha is not None:
        paper = Image.new("RGB", image.size, BACKGROUND)
        paper.paste(image, mask=alpha)
        image = paper
    return np.asarray(image if upright is None else image.transpose(upright))


def _read(data: bytes, name: str, limits: ImageLimits) -> _Still:
    """A function of its own, so that the decoder's memory is free again when it returns."""
    _check_size(header_size(name, data), limits)
    with Image.open(io.BytesIO(data), formats=(name,)) as image:
        _check_size(image.size, limits)
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise refusal(f"animated {name} is not supported; send a still image")
        image.load()
        if name == "PNG" and is_truncated(name, data):  # Pillow minds only when pixels are missing
            raise refusal("the PNG file is truncated")
        colours, alpha = _split(image)
        return _Still(
            colours=colours,
            alpha=alpha,
            profile=image.info.get("icc_profile"),
            orientation=_orientation(image.getexif),
        )


def _check_size(size: tuple[int, int] | None, limits: ImageLimits) -> None:
    if size is None:
        return
    width, height = size
    if width * height > limits.max_pixels:
        message = f"the image has {width}x{height} pixels; at most {limits.max_pixels} are allowed"
        raise refusal(message, value=width * height, allowed=limits.max_pixels)
    if min(width, height) < MIN_SIDE:
        raise refusal(f"the image is {width}x{height}; each side must have at least {MIN_SIDE} pixels")


def _orientation(read_exif: Callable[[], Image.Exif]) -> int:
    """The EXIF orientation, 1 (upright) when there is none or it cannot be read."""
    try:
        return int(read_exif().get(_ORIENTATION_TAG, 1))
    except Exception as error:  # a hostile EXIF block fails in many ways, and none of them matters
        logger.debug("EXIF ignored: %s", error)
        return 1


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours (mode L, RGB or CMYK) and, where the image has transparency, alpha (mode L)."""
    if image.mode.startswith("I"):
        return _split_sixteen(image)
    if image.mode in ("L", "RGB", "CMYK"):
        # A WebP holds on to its decoder's canvases, 400 MB of the largest image allowed.
        return (image.copy() if image.format == "WEBP" else image), _alpha(image)
    return image.convert("L" if image.mode in ("1", "LA") else "RGB"), _alpha(image)


def _alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data:
        return None
    return (image if image.mode in ("LA", "RGBA") else image.convert("RGBA")).getchannel("A")


def _split_sixteen(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """16-bit grey, rescaled: Pillow's own conversion would clip everything above 255 to white."""
    values = np.asarray(image)
    key = image.info.get("transparency")
    alpha = None if key is None else Image.fromarray((values != key).astype(np.uint8) * 255)
    return Image.fromarray(_EIGHT_OF_SIXTEEN[np.clip(values, 0, 65535)]), alpha


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Mode RGB in sRGB; a profile that is broken or meant for another colour space is ignored."""
    if profile:
        try:
            return _through_profile(image, profile)
        except (ImageCms.PyCMSError, OSError, ValueError, KeyError, TypeError) as error:
            logger.debug("ICC profile ignored: %s", error)
    return image.convert("RGB")


def _through_profile(image: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = _MODE_OF_SPACE[source.profile.xcolor_space.strip()]
    if image.mode == "L" and mode == "RGB":
        image = image.convert("RGB")
    if image.mode != mode:
        raise ValueError(f"a {mode} profile on an image of mode {image.mode}")
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        inMode=mode,
        outMode="RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return transform.apply(image)
