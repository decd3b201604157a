"""Sends requests, by a schedule or by a number of users, and hands on one record for each.

The open loop never waits for an answer: a request is sent when it is due, whatever became of those before it.
One that cannot be sent, because as many as agreed are in flight, is recorded as `unsent`, never sent later.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from zoetrope_bench.load.mix import Draw, RequestClass
from zoetrope_bench.load.records import UNFINISHED, UNSENT, Record
from zoetrope_bench.load.target import Ending, Observed, Target

Sink = Callable[[Record], None]
Start = Callable[[Coroutine[Any, Any, None]], None]
_FINE_S = 0.005
"""The last part of a wait sleeps in a thread: the event loop's own timer is a millisecond coarse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A request that is due: its number, when, what, and whether it only warms up."""

    index: int
    intended: float
    request_class: RequestClass
    warmup: bool = False


class Attack:
    """The requests of one run; times are seconds after its beginning.

    Attributes:
        in_flight: requests that were sent and have not ended.
        interrupted: whether a cancellation ended it before its time.
    """

    def __init__(self, target: Target, sink: Sink) -> None:
        """Begins the run's time now."""
        self._target, self._sink = target, sink
        self._began = time.perf_counter()
        self.in_flight = 0
        self.interrupted = False

    def clock(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    async def open_loop(
        self, shots: Iterable[Shot], *, seconds: float, max_in_flight: int, drain_s: float
    ) -> None:
        """Sends each request when it is due, then waits for those that are in flight.

        A cancellation of this task ends it early, with a record of each request that was sent.

        Args:
            shots: the requests, in the order in which they are due.
            seconds: the length of the schedule, warm-up included; the last one is due before its end.
            max_in_flight: one that is due while so many are in flight is not sent.
            drain_s: seconds after the schedule at which those that still run are cancelled.
        """
        async with _punctual(self.clock) as until, self._requests(drain_s) as (start, tasks):
            for shot in shots:
                message = self._target.prepare(shot.request_class, shot.index)
                await until(shot.intended)
                if len(tasks) < max_in_flight:
                    start(self._send(shot, message))
                else:
                    self._sink(
                        _record(shot, Observed(), Ending(code=UNSENT, message=f"{len(tasks)} in flight"))
                    )
            await asyncio.sleep(seconds - self.clock())

    async def closed_loop(
        self,
        users: Sequence[Draw],
        *,
        seconds: float,
        warmup_s: float,
        think_s: float,
        drain_s: float,
        seed: int = 0,
    ) -> None:
        """Lets each user send a request, wait for its end, think, and send the next; else as `open_loop`.

        Args:
            users: what each asks for.
            seconds: how long they go on, warm-up included.
            warmup_s: what begins earlier only warms up.
            think_s: the mean of the thinking time, which is exponential; 0 for none.
            drain_s: seconds after the end at which requests that still run are cancelled.
            seed: of the thinking times.
        """
        numbers = iter(range(1 << 62))

        async def user(number: int, draw: Draw) -> None:
            think = random.Random(f"user {seed} {number}")
            due = think.uniform(0, think_s)
            while due < seconds:
                shot = Shot(index=next(numbers), intended=due, request_class=draw(), warmup=due < warmup_s)
                message = self._target.prepare(shot.request_class, shot.index)
                await asyncio.sleep(due - self.clock())
                await self._send(shot, message)
                due = self.clock() + (think.expovariate(1 / think_s) if think_s else 0.0)

        async with self._requests(drain_s) as (start, _):
            for number, draw in enumerate(users):
                start(user(number, draw))
            await asyncio.sleep(seconds - self.clock())

    async def _send(self, shot: Shot, message: Any) -> None:
        """One request to its record, which it has even when it is cancelled."""
        observed, end = Observed(), Ending(code=UNFINISHED, status="CANCELLED")
        self.in_flight += 1
        try:
            end = await self._target.ask(message, observed, self.clock)
        finally:
            self.in_flight -= 1
            observed.ended = observed.ended or self.clock()
            self._sink(_record(shot, observed, end))

    @asynccontextmanager
    async def _requests(self, drain_s: float) -> AsyncIterator[tuple[Start, set[asyncio.Task[None]]]]:
        """Where requests run; all have ended when it is left. It swallows a cancellation."""
        tasks: set[asyncio.Task[None]] = set()
        broken: list[BaseException] = []

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()):
                broken.append(error)

        def start(work: Coroutine[Any, Any, None]) -> None:
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(ended)

        try:
            yield start, tasks
            if tasks:
                await asyncio.wait(tasks, timeout=drain_s)
        except asyncio.CancelledError:
            self.interrupted = True
        finally:
            running = list(tasks)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if broken:
            raise broken[0]


def _record(shot: Shot, observed: Observed, end: Ending) -> Record:
    return Record(
        index=shot.index,
        request_class=shot.request_class.name,
        intended=shot.intended,
        warmup=shot.warmup,
        **observed.to_dict(),
        code=end.code,
        status=end.status,
        message=end.message,
        retry_after_s=end.retry_after_s,
    )


@asynccontextmanager
async def _punctual(clock: Callable[[], float]) -> AsyncIterator[Callable[[float], Any]]:
    """Gives a coroutine that waits until a moment, late by tenths of a millisecond, not by whole ones."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="pacer") as pool:

        async def until(moment: float) -> None:
            if (coarse := moment - clock() - _FINE_S) > 0:
                await asyncio.sleep(coarse)
            if (rest := moment - clock()) > 0:
                await loop.run_in_executor(pool, time.sleep, rest)
            else:  # late: those that are due before must get their turn to be sent
                await asyncio.sleep(0)

        yield until
