"""The finished video, and how it is put together from the events of a stream."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoetrope_client.errors import BadResponse, ConnectionLost
from zoetrope_client.events import Done, Event, Fragment, Warned
from zoetrope_core.formats import FORMATS


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A finished video.

    Attributes:
        data: the encoded video.
        id: the server's name of the request.
        seed: the seed of the noise.
        parameters: the request as used, with all defaults; sent again, it gives the same video.
        timings: seconds by stage, and `total`.
        warnings: what the server warned of.
    """

    data: bytes
    id: str
    seed: int
    parameters: Mapping[str, Any]
    timings: Mapping[str, float]
    warnings: tuple[Warned, ...] = ()

    @property
    def media_type(self) -> str:
        """MIME type of `data`; of arbitrary bytes where the server names a format unknown here."""
        row = FORMATS.get(str(self.parameters.get("format", "mp4")))
        return "application/octet-stream" if row is None else row.media_type

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the video; a file appears whole or not at all, a device or pipe is written into.

        Raises:
            OSError: it cannot be written.
        """
        return write_whole(self.data, Path(path))


def write_whole(data: bytes, target: Path) -> Path:
    """Writes a file that appears whole or not at all, in place of an older one; raises OSError.

    A symbolic link stays, and what it points to is written; so do devices and pipes, which are written into.
    """
    if _is_special(target):
        with target.open("wb") as stream:
            stream.write(data)
        return target
    _replace(data, Path(os.path.realpath(target)))
    return target


def _is_special(target: Path) -> bool:
    """Whether something is there that is no file, and that a new file must not take the place of."""
    try:
        return not stat.S_ISREG(target.stat().st_mode)
    except FileNotFoundError:
        return False


def _replace(data: bytes, target: Path) -> None:
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class Assembly:
    """Collects the pieces of one stream; decoded frames and previews pass by and are not kept."""

    __slots__ = ("_done", "_pieces", "_warnings")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._warnings: list[Warned] = []
        self._done: Done | None = None

    def add(self, event: Event) -> None:
        """Takes a piece of the video, a warning or `Done`; anything else passes by."""
        match event:
            case Fragment():
                self._pieces.append(event.data)
            case Warned():
                self._warnings.append(event)
            case Done():
                self._done = event

    def video(self) -> Video:
        """The video.

        Raises:
            ConnectionLost: no `done` came.
            BadResponse: fewer or more bytes came than the server sent.
        """
        if self._done is None:
            raise ConnectionLost("the stream ended before the video was complete")
        data = b"".join(self._pieces)
        if len(data) != self._done.video_bytes:
            raise BadResponse(f"got {len(data)} of {self._done.video_bytes} bytes of the video")
        return Video(
            data=data,
            id=self._done.id,
            seed=self._done.seed,
            parameters=self._done.parameters,
            timings=self._done.timings,
            warnings=tuple(self._warnings),
        )


def collect(events: Iterable[Event]) -> Video:
    """The video of a whole stream; raises as `Assembly.video` does."""
    assembly = Assembly()
    for event in events:
        assembly.add(event)
    return assembly.video()
