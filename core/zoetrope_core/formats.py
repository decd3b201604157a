"""The formats a video can be asked for: what clients, server and documents need to know of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from zoetrope_core.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One value of a request's `format`.

    Attributes:
        media_type: MIME type of the file.
        suffixes: how its file names end; the first is what a file gets.
        codecs: what a request may say as `codec`, the default first; empty where there is nothing to choose.
        streams: whether it can be sent while it is made (`stream_video`).
        multiple: width and height must be multiples of this (chroma subsampling).
        max_fps: the most frames per second that players keep to.
    """

    media_type: str
    suffixes: tuple[str, ...]
    codecs: tuple[str, ...] = ()
    streams: bool = False
    multiple: int = 1
    max_fps: int = 120

    @property
    def default_codec(self) -> str | None:
        """The codec of a request that names none; None where there is nothing to choose."""
        return self.codecs[0] if self.codecs else None


FORMATS: Mapping[str, Format] = {
    "mp4": Format(
        media_type="video/mp4",
        suffixes=(".mp4", ".m4v"),
        codecs=("h264", "h265", "av1"),
        streams=True,
        multiple=2,
    ),
    "webm": Format(media_type="video/webm", suffixes=(".webm",), codecs=("vp9",), streams=True, multiple=2),
    "webp": Format(media_type="image/webp", suffixes=(".webp",)),
    # A frame lasts whole hundredths of a second, and browsers take one below two hundredths for a tenth.
    "gif": Format(media_type="image/gif", suffixes=(".gif",), max_fps=50),
    "png": Format(media_type="application/zip", suffixes=(".zip",)),
    "jpeg": Format(media_type="application/zip", suffixes=(".jpeg.zip", ".jpg.zip")),
    "raw": Format(media_type="application/octet-stream", suffixes=(".raw", ".rgb")),
}
LEAST_SIDE: Mapping[str, int] = {"h265": 34}
"""The least width and height in pixels of a codec that has one: x265 reads past the end of a single block."""
CODECS = tuple(dict.fromkeys(codec for each in FORMATS.values() for codec in each.codecs))
"""Every codec of some format."""


def format_of(path: str | PurePath) -> str | None:
    """The format that a file's name asks for by the longest suffix known; None where it has none of them."""
    name = PurePath(path).name.lower()
    found = {
        suffix: each for each, row in FORMATS.items() for suffix in row.suffixes if name.endswith(suffix)
    }
    return found[max(found, key=len)] if found else None


def checked_codec(
    format: str, codec: str | None, *, size: tuple[int, int], fps: int, streams: bool
) -> str | None:
    """The codec that a request for a format means, after a look at whether the two go together.

    Args:
        format: a key of `FORMATS`.
        codec: what the request says; None takes the format's default.
        size: the frame size (H, W) in pixels.
        fps: frames per second.
        streams: whether the video is sent while it is made.

    Raises:
        InvalidRequest: the format has no such codec, size or frame rate, or cannot be sent in parts.
    """
    row = FORMATS[format]
    if codec is not None and codec not in row.codecs:
        known = "one of " + ", ".join(row.codecs) if row.codecs else "none"
        raise _refused("codec", codec, f"{known} in {format}")
    if streams and not row.streams:
        able = ", ".join(name for name, each in FORMATS.items() if each.streams)
        raise _refused("stream_video", "true", f"false for {format}; true for {able}")
    for name, side in zip(("height", "width"), size, strict=True):
        if side % row.multiple:
            raise _refused(name, str(side), f"a multiple of {row.multiple} in {format}")
        if side < (least := LEAST_SIDE.get(codec or "", 1)):
            raise _refused(name, str(side), f"at least {least} with {codec}")
    if fps > row.max_fps:
        raise _refused("fps", str(fps), f"an integer up to {row.max_fps} in {format}")
    return codec or row.default_codec


def _refused(field: str, value: str, allowed: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field}: got {value!r}, allowed is {allowed}", field=field, value=value, allowed=allowed
    )
