"""When an event loop last ran."""

from __future__ import annotations

import asyncio
import time

PERIOD_S = 0.5


class LoopTicks:
    """Ticks on an event loop; another thread sees by them that the loop hangs."""

    def __init__(self) -> None:
        """Nothing hangs before there is a loop."""
        self._at: float | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ticks on this loop from now on, as long as it runs."""
        self._at = time.monotonic()
        loop.call_later(PERIOD_S, self.start, loop)

    @property
    def lag_s(self) -> float:
        """For how long the loop has not run, in seconds; from any thread."""
        return 0.0 if self._at is None else max(0.0, time.monotonic() - self._at - PERIOD_S)
