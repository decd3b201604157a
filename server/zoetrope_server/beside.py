"""Work that goes on beside other work of the same request, and never outlives it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[Awaitable[T]]:
    """Runs something beside the block, which may await it; cancelled when the block is left first."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        await _end([task])


async def one_ahead(calls: Iterable[Callable[[], Coroutine[Any, Any, T]]]) -> AsyncGenerator[T, None]:
    """The results of calls in order; the next call is under way while one is awaited, and while it is used.

    Whoever answers them finds the next one waiting when it has answered one. Close the generator (`aclosing`)
    to cancel what is under way.
    """
    tasks: deque[asyncio.Task[T]] = deque()
    try:
        for call in calls:
            tasks.append(asyncio.create_task(call()))
            if len(tasks) > 1:
                yield await tasks.popleft()
        while tasks:
            yield await tasks.popleft()
    finally:
        await _end(tasks)


async def _end(tasks: Iterable[asyncio.Task[T]]) -> None:
    """Cancels tasks and waits for their ends; an error of theirs is of no interest any more."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
