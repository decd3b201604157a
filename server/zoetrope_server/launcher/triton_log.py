"""What is passed on of tritonserver's output: equal lines once, long ones cut."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import IO

LONGEST = 16 << 10
"""Bytes of a line that are passed on; those of our own log are far shorter."""
_SUMMARY_S = 10.0
_STAMP = re.compile(rb"^[IWEFV]\d{4} \S+ +\d+ ")


def cut_lines(output: IO[bytes]) -> Iterator[bytes]:
    """The lines of a stream; of a long one the beginning, and how much is left out."""
    while line := output.readline(LONGEST):
        left_out = 0
        more = line
        while more and not more.endswith(b"\n"):
            more = output.readline(LONGEST)
            left_out += len(more)
        yield line + b" (%d bytes more)\n" % left_out if left_out else line


class LineFilter:
    """Collapses runs of equal lines: a flood of one message writes a line every ten seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the clock of the summaries."""
        self._clock = clock
        self._last: bytes | None = None
        self._line = b""
        self._repeats = 0
        self._since = 0.0

    def take(self, line: bytes) -> list[bytes]:
        """What to write now that this line has come; lines that differ in Triton's time stamp are equal."""
        text = _STAMP.sub(b"", line)
        if text == self._last:
            self._repeats, self._line = self._repeats + 1, line
            return self.rest() if self._clock() - self._since >= _SUMMARY_S else []
        written = self.rest()
        self._last, self._since = text, self._clock()
        return [*written, line]

    def rest(self) -> list[bytes]:
        """The summary of repetitions that have not been told of yet."""
        repeats, self._repeats, self._since = self._repeats, 0, self._clock()
        if repeats < 2:
            return [self._line] * repeats
        return [b"(the line before came %d more times)\n" % repeats]
