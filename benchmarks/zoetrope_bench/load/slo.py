"""What is promised of the latency, such as `p95<2s`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_FORM = re.compile(r"p(\d{1,2}(?:\.\d+)?)\s*<\s*(\d+(?:\.\d+)?)\s*(ms|s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """A quantile of the latency and its limit.

    Attributes:
        level: the quantile, between 0 and 1.
        limit: seconds below which it has to be.
    """

    level: float
    limit: float

    def __str__(self) -> str:
        """As it is written."""
        return f"{name(self.level)}<{self.limit:g}s"

    def met(self, latency: float | None) -> bool:
        """Whether one request was served in time; None for one that was not served."""
        return latency is not None and latency < self.limit


def parse(text: str) -> Slo:
    """The objective in `p95<2s` or `p99<500ms`; raises ValueError."""
    found = _FORM.fullmatch(text.strip())
    level = float(found[1]) / 100 if found else 0.0
    limit = float(found[2]) * (0.001 if found[3] == "ms" else 1.0) if found else 0.0
    if not 0 < level < 1 or not 0 < limit < math.inf:
        raise ValueError(f"got {text!r}, expected a quantile and its limit, such as p95<2s or p99<500ms")
    return Slo(level=level, limit=limit)


def name(level: float) -> str:
    """A quantile as it is called: p50, p99, p99.9."""
    return f"p{100 * level:g}"
