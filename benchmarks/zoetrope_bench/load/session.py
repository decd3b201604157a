"""One run from its settings to its records: everything that takes place while requests are sent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from zoetrope_bench.load import metrics
from zoetrope_bench.load.attack import Attack
from zoetrope_bench.load.live import Tally, show
from zoetrope_bench.load.records import Log, Record, Run, Sample, read
from zoetrope_bench.load.settings import Settings
from zoetrope_bench.load.target import GrpcTarget
from zoetrope_bench.report import machine

CONNECT_S = 10.0


class NoServer(ConnectionError):
    """Nothing answers at the address; nothing was measured."""


def perform(settings: Settings, path: Path, console: Console | None = None) -> Run:
    """Runs the load, writes the records as they come, and reads them back.

    Ctrl-C ends it early: requests in flight are cancelled and recorded, and the run is returned as it is.

    Args:
        settings: the run.
        path: where the records go, in place of an older file once the server has answered.
        console: where to show how it goes, if that is a terminal.

    Raises:
        NoServer: nothing answers at the address.
        OSError: the file cannot be written.
    """
    asyncio.run(_perform(settings, path, console))
    return read(path)


async def _perform(settings: Settings, path: Path, console: Console | None) -> None:
    async with GrpcTarget(settings.url, timeout_s=settings.timeout_s, headers=settings.headers) as target:
        if not await target.ready(CONNECT_S):
            raise NoServer(f"no server answers at {settings.url}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:  # not earlier: an older file is worth more than none
            await _measure(settings, target, Log(file), console)


async def _measure(settings: Settings, target: GrpcTarget, log: Log, console: Console | None) -> None:
    log.run(settings.to_dict(), machine(), datetime.now(UTC).isoformat(timespec="seconds"))
    tally = Tally()

    def sink(record: Record) -> None:
        log.request(record)
        tally.add(record)

    def note(sample: Sample) -> None:
        log.sample(sample)
        tally.sample = sample

    with _no_pauses():
        attack = Attack(target, sink)
        async with _beside(settings, attack, tally, note, console):
            await _attack(attack, settings)
    log.end(attack.clock(), attack.interrupted)


async def _attack(attack: Attack, settings: Settings) -> None:
    if settings.users is None:
        await attack.open_loop(
            settings.shots(),
            seconds=settings.warmup_s + settings.duration_s,
            max_in_flight=settings.max_in_flight,
            drain_s=settings.drain_s,
        )
        return
    await attack.closed_loop(
        settings.draws(),
        seconds=settings.warmup_s + settings.duration_s,
        warmup_s=settings.warmup_s,
        think_s=settings.think_s,
        drain_s=settings.drain_s,
        seed=settings.seed,
    )


@contextlib.asynccontextmanager
async def _beside(
    settings: Settings, attack: Attack, tally: Tally, note: Callable[[Sample], None], console: Console | None
) -> AsyncIterator[None]:
    """What goes on beside the attack: samples of the metrics, and the display."""
    work = []
    if settings.metrics:
        work.append(metrics.watch(settings.metrics, attack.clock, note, settings.metrics_every_s))
    if console is not None and console.is_terminal:
        work.append(show(console, tally, attack, settings.warmup_s + settings.duration_s))
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error


@contextlib.contextmanager
def _no_pauses() -> Iterator[None]:
    """Takes what was imported out of garbage collection, whose long pauses would be the requests' lag."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
