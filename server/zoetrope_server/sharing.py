"""Videos of several requests share executions of the UNet, and a video that is alone waits for nobody.

Triton's own batcher delays every call in the hope of another. Here it is known who may call again: the videos
of the execution that has just ended. Only those are waited for, for `WINDOW_S` at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

C = TypeVar("C")
R = TypeVar("R")
WINDOW_S = 0.005
"""How long the videos of an execution have to come back; it passes once for each that has left."""

Execute = Callable[[Sequence[C]], Awaitable[Sequence[R]]]
"""Computes some calls together; the results in their order."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Call(Generic[C, R]):
    """A call that waits for its execution: whose it is, what it asks for, and where the result goes."""

    member: Hashable
    content: C
    result: asyncio.Future[R]


@dataclass(slots=True, kw_only=True)
class _Group(Generic[C, R]):
    """The calls of one shape."""

    waiting: list[_Call[C, R]] = field(default_factory=list)
    execution: asyncio.Task[None] | None = None
    expected: set[Hashable] = field(default_factory=set)
    window: asyncio.TimerHandle | None = None


class Sharing(Generic[C, R]):
    """Gathers calls of equal shapes into executions; used on one event loop."""

    def __init__(self, execute: Execute[C, R], *, max_batch: int) -> None:
        """Takes what computes calls together, and how many it takes at once."""
        self._execute = execute
        self._max_batch = max_batch
        self._groups: dict[Hashable, _Group[C, R]] = {}

    async def call(self, member: Hashable, shape: Hashable, content: C) -> R:
        """The result of one call.

        Args:
            member: the video; it makes one call at a time.
            shape: calls of equal shapes may be computed together.
            content: what is computed.
        """
        group = self._groups.setdefault(shape, _Group())
        call = _Call[C, R](member=member, content=content, result=asyncio.get_running_loop().create_future())
        group.waiting.append(call)
        group.expected.discard(member)
        try:
            self._advance(shape, group)
            return await call.result
        finally:
            if call in group.waiting:  # cancelled before its execution
                group.waiting.remove(call)
                self._advance(shape, group)

    def _advance(self, shape: Hashable, group: _Group[C, R]) -> None:
        """Starts an execution if one may start; forgets a shape that nobody asks for."""
        if group.execution is not None:
            return
        full = len(group.waiting) >= self._max_batch
        if group.waiting and (full or not group.expected):
            self._close_window(group)
            calls, group.waiting = group.waiting[: self._max_batch], group.waiting[self._max_batch :]
            group.execution = asyncio.create_task(self._run(shape, group, calls))
        elif not group.waiting and not group.expected:
            self._groups.pop(shape, None)

    async def _run(self, shape: Hashable, group: _Group[C, R], calls: Sequence[_Call[C, R]]) -> None:
        """One execution; its error is the error of each of its calls."""
        try:
            results = await self._execute([call.content for call in calls])
            for call, result in zip(calls, results, strict=True):
                if not call.result.done():
                    call.result.set_result(result)
        except Exception as error:
            for call in calls:
                if not call.result.done():
                    call.result.set_exception(error)
        group.execution = None
        group.expected = {call.member for call in calls if not call.result.cancelled()}
        group.window = asyncio.get_running_loop().call_later(WINDOW_S, self._stop_waiting, shape, group)
        self._advance(shape, group)

    def _stop_waiting(self, shape: Hashable, group: _Group[C, R]) -> None:
        group.window = None
        group.expected.clear()
        self._advance(shape, group)

    def _close_window(self, group: _Group[C, R]) -> None:
        group.expected.clear()
        if group.window is not None:
            group.window.cancel()
            group.window = None
