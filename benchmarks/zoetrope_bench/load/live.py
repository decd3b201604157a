"""How a run goes, on a terminal, while it runs."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque

from rich.console import Console
from rich.live import Live
from rich.table import Table

from zoetrope_bench.load.attack import Attack
from zoetrope_bench.load.metrics import QUEUE
from zoetrope_bench.load.records import OUTCOMES, SERVED, Record, Sample
from zoetrope_bench.load.statistics import quantile

_RECENT = 200
_EVERY_S = 0.5
"""Drawing takes the generator's time, so it is not done more often."""


class Tally:
    """What the display shows: counts, and the latest latencies.

    Attributes:
        sample: the latest sample of the server's metrics.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.recent: deque[float] = deque(maxlen=_RECENT)
        self.lags: deque[float] = deque(maxlen=_RECENT)
        self.sample: Sample | None = None

    def add(self, record: Record) -> None:
        """Takes a request that has ended."""
        self.outcomes[record.outcome] += 1
        if record.outcome == SERVED and record.latency is not None:
            self.recent.append(record.latency)
        if record.lag is not None:
            self.lags.append(record.lag)


async def show(console: Console, tally: Tally, attack: Attack, seconds: float) -> None:
    """Draws until cancelled; nothing is left on the terminal."""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for tick in itertools.count(1):
            live.update(table(tally, attack.clock(), attack.in_flight, seconds), refresh=True)
            await asyncio.sleep(max(0.0, tick * _EVERY_S - attack.clock()) or _EVERY_S)


def table(tally: Tally, clock: float, in_flight: int, seconds: float) -> Table:
    """The state of a run.

    Args:
        tally: what has ended so far.
        clock: seconds since the beginning.
        in_flight: requests that have not ended.
        seconds: the length of the schedule.
    """
    grid = Table("", "", title=f"load, {min(clock, seconds):.0f} of {seconds:.0f} s", show_header=False)
    grid.add_row(
        "ended", ", ".join(f"{tally.outcomes[kind]} {kind}" for kind in OUTCOMES if tally.outcomes[kind])
    )
    grid.add_row("in flight", str(in_flight))
    if tally.recent:
        levels = (f"p{100 * level:g} {quantile(tally.recent, level).value:.3f} s" for level in (0.5, 0.95))
        grid.add_row(f"latency of the last {len(tally.recent)}", ", ".join(levels))
    if tally.lags:
        grid.add_row("generator's lag, p99", f"{1000 * quantile(tally.lags, 0.99).value:.1f} ms")
    if tally.sample is not None:
        values = tally.sample.values
        known = (f"{values[name]:g} {short}" for short, name in QUEUE.items() if name in values)
        grid.add_row("the server's queue", ", ".join(known))
    return grid
