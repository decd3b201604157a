"""Frames to a video file, in memory, whole or part by part. A format is a row of `formats`, not a function.

Equal frames give equal bytes: the thread count is fixed (x264's output depends on it, not on timing), and no
date is written. Colours are converted with the BT.709 matrix to limited range and tagged as such.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import Any, Self, TypeAlias

import av
import numpy as np

from zoetrope_core.errors import MediaFailed
from zoetrope_server.media.colour import YuvConverter, tag_bt709
from zoetrope_server.media.formats import video_spec

logger = logging.getLogger(__name__)

Frames: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

DEFAULT_QUALITY = 80


_THREADS = 4  # fixed, because the bytes depend on it


def encode_video(
    frames: Iterable[Frames],
    *,
    fps: int | Fraction,
    format: str = "mp4",
    codec: str = "h264",
    quality: int = DEFAULT_QUALITY,
) -> bytes:
    """Encode a whole video.

    Args:
        frames: chunks, u8 [f, H, W, 3] sRGB each, in order; H and W are even.
        fps: frames per second.
        format: container, see `formats.VIDEO_SPECS`.
        codec: codec, see `formats.VIDEO_SPECS`.
        quality: 0 (small) to 100 (faithful).

    Returns:
        The file.

    Raises:
        MediaFailed: frames, sizes or parameters that cannot be encoded, or the codec failed.
    """
    with VideoEncoder(fps=fps, format=format, codec=codec, quality=quality) as encoder:
        for chunk in frames:
            encoder.add(chunk)
        return encoder.finish()


class VideoEncoder:
    """Encodes chunk by chunk, while later chunks are still being computed.

    Blocking (the codec releases the GIL): call it from a thread, one thread at a time. Used as a context
    manager, it lets go of the codec's memory also when the video is never finished.
    """

    def __init__(
        self,
        *,
        fps: int | Fraction,
        format: str = "mp4",
        codec: str = "h264",
        quality: int = DEFAULT_QUALITY,
        streams: bool = False,
    ) -> None:
        """Choose the format; the size comes with the first frames.

        Args:
            fps: frames per second, more than 0.
            format: container, see `formats.VIDEO_SPECS`.
            codec: codec, see `formats.VIDEO_SPECS`.
            quality: 0 (small) to 100 (faithful).
            streams: whether `take` gives the file away while it is made; see `formats.STREAM_SPECS`.

        Raises:
            MediaFailed: unknown format, or a value out of range.
        """
        self._spec = video_spec(format, codec, streams=streams)
        if fps <= 0:
            raise MediaFailed(f"fps must be positive, not {fps}")
        if not 0 <= quality <= 100:
            raise MediaFailed(f"quality must be in 0..100, not {quality}")
        self._fps = Fraction(fps)
        self._quality = quality
        self._file: _File | _Pipe = _Pipe() if streams else _File()
        self._size: tuple[int, int] | None = None
        self._count = 0
        self._container: Any = None
        self._stream: Any = None
        self._converter: Any = None
        self._closed = False

    @property
    def count(self) -> int:
        """Frames added so far."""
        return self._count

    def add(self, frames: Frames) -> None:
        """Encode the next frames.

        Args:
            frames: u8 [f, H, W, 3] sRGB; every chunk has the first one's H and W.

        Raises:
            MediaFailed: wrong shape, type or size; finished already; or the codec failed.
        """
        self._check(frames)
        with _codec_errors():
            if self._container is None:
                self._open(frames.shape[1], frames.shape[2])
            for pixels in frames:
                self._container.mux(self._stream.encode(self._frame(pixels)))
                self._count += 1

    def take(self) -> bytes:
        """What the file has grown by since the last time; nothing before the end of one that is whole."""
        return self._file.take() if self._spec.streams or self._closed else b""

    def finish(self) -> bytes:
        """Write what the codec still holds and the index.

        Returns:
            The file, without what was taken before.

        Raises:
            MediaFailed: no frames were added; finished already; or the codec failed.
        """
        if self._closed:
            raise MediaFailed("the video is finished already")
        if not self._count:
            raise MediaFailed("a video needs at least one frame")
        with _codec_errors():
            self._container.mux(self._stream.encode(None))
            self._close()
        return self.take()

    def close(self) -> None:
        """Let go of the codec, finished or not; may be called twice, never raises."""
        # What closing an unfinished video complains about is of no interest.
        with contextlib.suppress(av.FFmpegError, ValueError):
            self._close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _close(self) -> None:
        container, self._container, self._stream, self._closed = self._container, None, None, True
        self._converter = None
        if container is not None:
            container.close()

    def _check(self, frames: Frames) -> None:
        if self._closed:
            raise MediaFailed("the video is finished already")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise MediaFailed(f"frames must be u8 [f, H, W, 3], not {frames.dtype} {list(frames.shape)}")
        height, width = frames.shape[1:3]
        if min(height, width) < 1 or height % self._spec.multiple or width % self._spec.multiple:
            raise MediaFailed(f"{width}x{height} is not a multiple of {self._spec.multiple} each way")
        if self._size not in (None, (height, width)):
            raise MediaFailed(f"a {width}x{height} frame in a video of another size")
        self._size = (height, width)

    def _open(self, height: int, width: int) -> None:
        self._container = av.open(
            self._file,
            "w",
            format=self._spec.muxer,
            options=dict(self._spec.muxer_options),
            io_open=self._file.reopen if isinstance(self._file, _File) else None,
        )
        stream = self._container.add_stream(
            self._spec.encoder, rate=self._fps, options=self._spec.encoder_options(self._quality)
        )
        stream.width, stream.height, stream.pix_fmt = width, height, self._spec.pixel_format
        context = stream.codec_context
        context.thread_count, context.thread_type = _THREADS, self._spec.threads
        context.time_base = 1 / self._fps
        tag_bt709(context)
        self._stream = stream
        self._converter = YuvConverter(width=width, height=height, pixel_format=self._spec.pixel_format)

    def _frame(self, pixels: Frames) -> Any:
        """u8 [H, W, 3] -> the codec's frame, with its place in time."""
        frame = self._converter.convert(pixels)
        frame.pts, frame.time_base, frame.duration = self._count, 1 / self._fps, 1
        return frame


class _File(io.BytesIO):
    """A file that the container may go back in."""

    def reopen(self, url: str, flags: int, options: object) -> io.BytesIO:
        """A second handle: moving the index to the front, the muxer reads what it wrote through one."""
        return io.BytesIO(self.getvalue())

    def take(self) -> bytes:
        """Everything."""
        return self.getvalue()


class _Pipe:
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


@contextlib.contextmanager
def _codec_errors() -> Iterator[None]:
    """The codec's errors as `MediaFailed`."""
    try:
        yield
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        logger.warning("encoding failed", exc_info=True)
        raise MediaFailed(f"the video could not be encoded: {error}") from error
