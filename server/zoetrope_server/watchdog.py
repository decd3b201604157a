"""One watchdog for all stages: it notices a stage that has stopped answering.

A stage answers its calls one after the other, so it is judged by the time since its last answer, not by how
long a call has waited behind others. How long an answer may take follows from what has been measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
LEAST_S = 30.0
"""No shorter silence counts as a hang."""
MARGIN = 10.0
"""A hang is this many times the slowest answer that was measured."""
_CHECK_S = 1.0
_LATE_S = 5.0
_MOST_SHAPES = 1024
"""How many shapes are remembered; clients choose among many sizes."""

OnHang = Callable[[str], None]
"""Called once, on the event loop, with what a client may be told."""


@dataclass(slots=True, kw_only=True)
class _Stage:
    """The calls that a stage has not answered yet, by number, and when it last answered any."""

    waiting: dict[int, tuple[Hashable, float]] = field(default_factory=dict)
    answered: float = 0.0


class Watchdog:
    """Watches the calls of all stages; used on one event loop."""

    def __init__(
        self, on_hang: OnHang, *, start_timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Watches nothing yet.

        Args:
            on_hang: what to do about a stage that hangs.
            start_timeout_s: how long an answer may take for a shape that has not been measured. The first
                answer is no measure: the engine may have compiled the shape.
            clock: tells the time in seconds.
        """
        self._on_hang = on_hang
        self._start_timeout_s = start_timeout_s
        self._clock = clock
        self._stages: dict[str, _Stage] = {}
        self._slowest: dict[tuple[str, Hashable], float | None] = {}
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._reported = False

    async def watch(self, stage: str, shape: Hashable, answer: Awaitable[T]) -> T:
        """The answer to a call of a stage.

        Cancelled, the call is still watched until the stage has answered, since others wait behind it.

        Args:
            stage: the stage's name.
            shape: what the time of the call depends on.
            answer: the call.
        """
        future = asyncio.ensure_future(answer)
        number = self._begin(stage, shape)
        future.add_done_callback(lambda done: self._end(stage, number, done))
        return await asyncio.shield(future)

    def report(self, reason: str) -> None:
        """Reports a stage as lost, once."""
        if not self._reported:
            self._reported = True
            self._on_hang(reason)

    def hanging(self) -> str | None:
        """What hangs now, if anything does."""
        now = self._clock()
        for name, stage in self._stages.items():
            if not stage.waiting:
                continue
            silent = now - self._served_since(stage, min(began for _, began in stage.waiting.values()))
            limit = max(self._limit(name, shape) for shape, _ in stage.waiting.values())
            if silent > limit:
                return f"stage {name} has not answered for {silent:.0f} s, and {limit:.0f} s is its limit"
        return None

    def _limit(self, stage: str, shape: Hashable) -> float:
        slowest = self._slowest.get((stage, shape))
        return self._start_timeout_s if slowest is None else max(LEAST_S, MARGIN * slowest)

    def _served_since(self, stage: _Stage, began: float) -> float:
        """When the stage turned to a call that began then: not before it had answered the one before."""
        return max(began, stage.answered)

    def _begin(self, name: str, shape: Hashable) -> int:
        self._number += 1
        self._stages.setdefault(name, _Stage()).waiting[self._number] = (shape, self._clock())
        if self._timer is None:
            self._check_later()
        return self._number

    def _end(self, name: str, number: int, done: asyncio.Future[T]) -> None:
        stage, now = self._stages[name], self._clock()
        shape, began = stage.waiting.pop(number)
        took, stage.answered = now - self._served_since(stage, began), now
        if not done.cancelled() and done.exception() is None:
            self._learn((name, shape), took)

    def _learn(self, key: tuple[str, Hashable], took: float) -> None:
        """Takes in how long an answer took."""
        if key in self._slowest:
            self._slowest[key] = max(self._slowest[key] or 0.0, took)
            return
        if len(self._slowest) >= _MOST_SHAPES:
            del self._slowest[next(iter(self._slowest))]
        self._slowest[key] = None

    def _check(self) -> None:
        self._timer = None
        if self._clock() > self._due + _LATE_S:
            self._forgive()
        if (reason := self.hanging()) is not None:
            self.report(reason)
        elif any(stage.waiting for stage in self._stages.values()):
            self._check_later()

    def _check_later(self) -> None:
        self._due = self._clock() + _CHECK_S
        self._timer = asyncio.get_running_loop().call_later(_CHECK_S, self._check)

    def _forgive(self) -> None:
        """Starts all patience anew: this process was stopped for a while, and so may the stages have been."""
        for stage in self._stages.values():
            stage.answered = self._clock()
