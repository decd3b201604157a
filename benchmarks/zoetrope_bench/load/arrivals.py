"""When requests are due: an open loop's schedule, fixed before anything is sent.

Arrivals at a rate that changes over time are those at rate 1 on a clock that runs with the rate (the inverse
of the cumulated rate; Cinlar, Introduction to Stochastic Processes, 1975), so Poisson and constant arrivals,
steady or on a ramp, are one function.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

POISSON, CONSTANT = "poisson", "constant"
KINDS = (POISSON, CONSTANT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of the schedule in which the rate goes evenly from one value to another.

    Attributes:
        start: requests per second at its beginning.
        end: requests per second at its end.
        seconds: how long it takes.
    """

    start: float
    end: float
    seconds: float

    def __post_init__(self) -> None:
        """Refuses what is no rate or no time; raises ValueError."""
        values = (self.start, self.end, self.seconds)
        if not all(math.isfinite(value) for value in values) or min(values) < 0 or not self.seconds:
            raise ValueError(f"a rate is not negative and takes some time, got {self}")

    @property
    def requests(self) -> float:
        """How many arrivals are expected."""
        return self.seconds * (self.start + self.end) / 2

    def moment(self, count: float) -> float:
        """Seconds after its beginning at which `count` arrivals are expected; `count` is below `requests`."""
        slope = (self.end - self.start) / self.seconds
        root = math.sqrt(max(self.start**2 + 2 * slope * count, 0.0))
        return 2 * count / (self.start + root) if count else 0.0


def parse(text: str) -> tuple[Segment, ...]:
    """The segments in `5@60` (5 per second for 60 s) or `1..5@30,5@60` (from 1 to 5 in 30 s, then 5).

    Raises:
        ValueError: the text is something else; the message says what was expected.
    """
    return tuple(_segment(part) for part in text.split(","))


def _segment(text: str) -> Segment:
    rates, at, seconds = text.strip().partition("@")
    start, dots, end = rates.partition("..")
    try:
        if not at:
            raise ValueError
        return Segment(start=float(start), end=float(end if dots else start), seconds=float(seconds))
    except ValueError:
        raise ValueError(f"got {text.strip()!r}, expected RATE@SECONDS or RATE..RATE@SECONDS") from None


def seconds(segments: Sequence[Segment]) -> float:
    """The length of the schedule."""
    return sum(segment.seconds for segment in segments)


def times(segments: Sequence[Segment], kind: str, seed: int) -> Iterator[float]:
    """Seconds after the beginning at which requests are due, rising.

    Args:
        segments: the rates.
        kind: `poisson` (exponential gaps at rate 1, on the clock of the rate) or `constant` (even gaps, the
            first request at once).
        seed: of the gaps; the same seed gives the same schedule.
    """
    draw = random.Random(f"arrivals {seed}")
    count = draw.expovariate(1.0) if kind == POISSON else 0.0
    began = passed = 0.0
    for segment in segments:
        while count - passed < segment.requests:
            yield began + segment.moment(count - passed)
            count += draw.expovariate(1.0) if kind == POISSON else 1.0
        began, passed = began + segment.seconds, passed + segment.requests
