"""A small animated picture in the terminal: a half block is two pixels; an odd last row is left out."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import numpy as np
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style

from zoetrope_core.specs import Array

_UPPER_HALF = "▀"
_FRAME_S = 0.15


def can_show(console: Console) -> bool:
    """Whether the console is a terminal with enough colours."""
    return console.is_terminal and console.color_system in ("truecolor", "256")


class HalfBlocks:
    """A rich renderable of an animated image; which frame it shows depends on the time."""

    def __init__(self, image: bytes) -> None:
        """Decodes the image; raises OSError or ValueError for one that is none."""
        self._frames = tuple(_frames(image))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        frame = self._frames[int(time.monotonic() / _FRAME_S) % len(self._frames)]
        step = -(-frame.shape[1] // options.max_width)  # every n-th pixel of what is too wide
        frame = frame[::step, ::step]
        for upper, lower in zip(frame[::2], frame[1::2], strict=False):
            for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
                yield Segment(_UPPER_HALF, Style(color=Color.from_rgb(*top), bgcolor=Color.from_rgb(*bottom)))
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = min(self._frames[0].shape[1], options.max_width)
        return Measurement(width, width)


def _frames(image: bytes) -> Iterator[Array]:
    """The frames as u8 [h,w,3]."""
    from PIL import Image, ImageSequence

    with Image.open(io.BytesIO(image), formats=("WEBP",)) as opened:
        for frame in ImageSequence.Iterator(opened):
            yield np.asarray(frame.convert("RGB"))
