"""Frames to a video file, in memory, whole or part by part. A format is a row of `formats`, not a function.

Equal frames give equal bytes: the thread count is fixed (the encoders' output depends on it, not on timing),
and no date is written. Colours are converted with the BT.709 matrix to limited range and tagged as such.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import Self

import numpy as np

from zoetrope_core.errors import MediaFailed
from zoetrope_core.formats import FORMATS, LEAST_SIDE
from zoetrope_server.media.containers import Container, File, Frames, Pipe, open_container
from zoetrope_server.media.formats import VideoSpec, video_spec
from zoetrope_server.media.hardware import ENCODER_ERRORS, NO_HARDWARE, HardwareEncoders

logger = logging.getLogger(__name__)

DEFAULT_QUALITY = 80


def encode_video(
    frames: Iterable[Frames],
    *,
    fps: int | Fraction,
    format: str = "mp4",
    codec: str | None = None,
    quality: int = DEFAULT_QUALITY,
) -> bytes:
    """Encode a whole video.

    Args:
        frames: chunks, u8 [f, H, W, 3] sRGB each, in order; H and W are multiples of the format's `multiple`.
        fps: frames per second.
        format: a key of `zoetrope_core.formats.FORMATS`.
        codec: one of that format's; None takes its default.
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
        codec: str | None = None,
        quality: int = DEFAULT_QUALITY,
        streams: bool = False,
        hardware: HardwareEncoders = NO_HARDWARE,
    ) -> None:
        """Choose the format; the size comes with the first frames.

        Args:
            fps: frames per second, more than 0.
            format: a key of `zoetrope_core.formats.FORMATS`.
            codec: one of that format's; None takes its default.
            quality: 0 (small) to 100 (faithful).
            streams: whether `take` gives the file away while it is made; see `formats.STREAM_SPECS`.
            hardware: hardware encoders to try before the software.

        Raises:
            MediaFailed: unknown format, or a value out of range.
        """
        row = FORMATS.get(format)
        codec = row.default_codec if row is not None and codec is None else codec
        software = video_spec(format, codec, streams=streams)
        assert row is not None, "every row of the server is one of the core's"
        if not 0 < fps <= row.max_fps:
            raise MediaFailed(f"fps must be more than 0 and at most {row.max_fps} in {format}, not {fps}")
        if not 0 <= quality <= 100:
            raise MediaFailed(f"quality must be in 0..100, not {quality}")
        self._multiple, self._least = row.multiple, LEAST_SIDE.get(codec or "", 1)
        self._software, self._faster = software, hardware.spec((format, codec), streams=streams)
        self._hardware = hardware
        self._fps = Fraction(fps)
        self._quality = quality
        self._streams = streams
        self._file: File | Pipe = Pipe() if streams else File()
        self._size: tuple[int, int] | None = None
        self._count = 0
        self._container: Container | None = None
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
            for pixels in frames:
                container = self._container = self._container or self._open(*pixels.shape[:2])
                container.add(pixels)
                self._count += 1

    def take(self) -> bytes:
        """What the file has grown by since the last time; nothing before the end of one that is whole."""
        return self._file.take() if self._streams or self._closed else b""

    def finish(self) -> bytes:
        """Write what the codec still holds and the index.

        Returns:
            The file, without what was taken before.

        Raises:
            MediaFailed: no frames were added; finished already; or the codec failed.
        """
        if self._closed:
            raise MediaFailed("the video is finished already")
        if self._container is None:
            raise MediaFailed("a video needs at least one frame")
        with _codec_errors():
            self._container.finish()
            self._close()
        return self.take()

    def close(self) -> None:
        """Let go of the codec, finished or not; may be called twice, never raises."""
        # What closing an unfinished video complains about is of no interest.
        with contextlib.suppress(*ENCODER_ERRORS):
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
        container, self._container, self._closed = self._container, None, True
        if container is not None:
            container.close()

    def _check(self, frames: Frames) -> None:
        if self._closed:
            raise MediaFailed("the video is finished already")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise MediaFailed(f"frames must be u8 [f, H, W, 3], not {frames.dtype} {list(frames.shape)}")
        height, width = frames.shape[1:3]
        if min(height, width) < self._least:
            raise MediaFailed(f"{width}x{height} is less than {self._least} each way")
        if height % self._multiple or width % self._multiple:
            raise MediaFailed(f"{width}x{height} is not a multiple of {self._multiple} each way")
        if self._size not in (None, (height, width)):
            raise MediaFailed(f"a {width}x{height} frame in a video of another size")
        self._size = (height, width)

    def _open(self, height: int, width: int) -> Container:
        """The container for frames of this size, by a hardware encoder where one can be opened."""
        if self._faster is not None:
            try:
                return self._opened(self._faster, height, width)
            except ENCODER_ERRORS as error:
                self._hardware.failed(self._faster, error)
                self._file.clear()
        return self._opened(self._software, height, width)

    def _opened(self, spec: VideoSpec, height: int, width: int) -> Container:
        return open_container(
            self._file, spec, width=width, height=height, fps=self._fps, quality=self._quality
        )


@contextlib.contextmanager
def _codec_errors() -> Iterator[None]:
    """The codec's errors as `MediaFailed`."""
    try:
        yield
    except ENCODER_ERRORS as error:
        logger.warning("encoding failed", exc_info=True)
        raise MediaFailed(f"the video could not be encoded: {error}") from error
