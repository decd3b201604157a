"""Files in memory that frames are written to: FFmpeg's containers, and archives of single frames."""

from __future__ import annotations

import io
import os
import zipfile
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

import av
import numpy as np
from PIL import Image

from zoetrope_server.media.colour import (
    PALETTE,
    YUV,
    Converter,
    PaletteConverter,
    RgbConverter,
    YuvConverter,
    tag_bt709,
)
from zoetrope_server.media.formats import VideoSpec

Frames: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

THREADS = 4
"""Threads of an encoder: fixed, because the bytes depend on it."""
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of a ZIP file's calendar


class File(io.BytesIO):
    """A file that the container may go back in."""

    def reopen(self, url: str, flags: int, options: object) -> io.BytesIO:
        """A second handle: moving the index to the front, the muxer reads what it wrote through one."""
        return io.BytesIO(self.getvalue())

    def take(self) -> bytes:
        """Everything."""
        return self.getvalue()

    def clear(self) -> None:
        """Makes it empty."""
        self.seek(0)
        self.truncate()


class Pipe:
    """What the container writes, in order; it cannot go back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Keeps the next bytes; the memory of `data` is the container's."""
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken

    def clear(self) -> None:
        """Makes it empty."""
        self._parts.clear()


class Container(Protocol):
    """A file that is being written."""

    def add(self, pixels: Frames) -> None:
        """Writes the next frame u8 [H, W, 3]."""
        ...

    def finish(self) -> None:
        """Writes what is still held, and the index."""
        ...

    def close(self) -> None:
        """Lets go of the codec."""
        ...


def open_container(
    file: File | Pipe, spec: VideoSpec, *, width: int, height: int, fps: Fraction, quality: int
) -> Container:
    """Opens the container and the codec of a format.

    Args:
        file: where the bytes go.
        spec: the format.
        width: pixels.
        height: pixels.
        fps: frames per second.
        quality: 0 to 100.

    Raises:
        av.FFmpegError: the codec cannot be opened, or not for this size.
    """
    if spec.muxer == "zip":
        assert isinstance(file, File)
        return _ZipArchive(file, spec, quality)
    return _AvContainer(file, spec, width=width, height=height, fps=fps, quality=quality)


class _AvContainer:
    """One of FFmpeg's containers."""

    def __init__(
        self, file: File | Pipe, spec: VideoSpec, *, width: int, height: int, fps: Fraction, quality: int
    ) -> None:
        for name, value in spec.environment.items():
            os.environ.setdefault(name, value)
        self._count = 0
        self._fps, self._ticks = fps, Fraction(spec.ticks or fps)
        self._converter = _converter(spec, width, height, 1 / self._ticks, quality)
        reopen = file.reopen if isinstance(file, File) else None
        self._container: Any = av.open(
            file, "w", format=spec.muxer, options=dict(spec.muxer_options), io_open=reopen
        )
        try:
            self._stream = self._open(spec, width, height, quality)
        except BaseException:
            self.close()
            raise

    def _open(self, spec: VideoSpec, width: int, height: int, quality: int) -> Any:
        options = spec.encoder_options(quality)
        stream = self._container.add_stream(spec.encoder, rate=self._fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, spec.pixel_format
        context = stream.codec_context
        context.thread_count, context.thread_type = THREADS, spec.threads
        context.time_base = 1 / self._ticks
        if spec.tag is not None:
            context.codec_tag = spec.tag
        if spec.pixel_format == YUV:
            tag_bt709(context)
        self._container.start_encoding()  # opens the codec now, not with the first frame
        return stream

    def add(self, pixels: Frames) -> None:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        start, end = (round(number * self._ticks / self._fps) for number in (self._count, self._count + 1))
        frame.pts, frame.time_base, frame.duration = start, 1 / self._ticks, end - start
        self._count += 1
        for converted in self._converter.convert(frame):
            self._container.mux(self._stream.encode(converted))

    def finish(self) -> None:
        for converted in self._converter.finish():
            self._container.mux(self._stream.encode(converted))
        self._container.mux(self._stream.encode(None))
        self.close()

    def close(self) -> None:
        container, self._container, self._stream = self._container, None, None
        if container is not None:
            container.close()


def _converter(spec: VideoSpec, width: int, height: int, time_base: Fraction, quality: int) -> Converter:
    """What brings frames to the pixel format of a row."""
    if spec.pixel_format == YUV:
        return YuvConverter(width=width, height=height, pixel_format=spec.pixel_format, time_base=time_base)
    if spec.pixel_format == PALETTE:
        return PaletteConverter(width=width, height=height, time_base=time_base, colours=spec.level(quality))
    return RgbConverter(spec.pixel_format)


class _ZipArchive:
    """A ZIP archive with a file for each frame, stored as it is: pictures are compressed already."""

    def __init__(self, file: File, spec: VideoSpec, quality: int) -> None:
        self._archive = zipfile.ZipFile(file, "w")
        self._format = spec.encoder
        self._options = {name: int(value) for name, value in spec.encoder_options(quality).items()}

    def add(self, pixels: Frames) -> None:
        picture = io.BytesIO()
        Image.fromarray(pixels).save(picture, self._format, **self._options)
        number = len(self._archive.filelist)
        entry = zipfile.ZipInfo(f"{number:05d}.{self._format.lower()}", _FIRST_DAY)
        entry.create_system, entry.external_attr = 3, 0o100644 << 16  # the same on every system
        self._archive.writestr(entry, picture.getvalue())

    def finish(self) -> None:
        self._archive.close()

    def close(self) -> None:
        self._archive.close()
