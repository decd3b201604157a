"""Encoding one chunk of frames while the next is being decoded by its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from zoetrope_core.specs import Array
from zoetrope_server.media.encode import VideoEncoder

T = TypeVar("T")


class OverlappedEncoder:
    """A `VideoEncoder` in a thread, one chunk at a time; leaving the context waits for the thread."""

    def __init__(self, encoder: VideoEncoder, executor: Executor) -> None:
        """Takes the encoder over."""
        self._encoder = encoder
        self._executor = executor
        self._pending: asyncio.Future[Any] | None = None

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets the thread end and frees the codec, whether the video is finished or not."""
        while self._pending is not None and not self._pending.done():
            # Another cancellation may interrupt the wait; the thread still holds the codec then.
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self._pending])
        with self._encoder:
            pass

    async def add(self, frames: Array) -> None:
        """Starts to encode u8 [f,H,W,3], once the chunk before is done; raises MediaFailed for that one."""
        await self._settle()
        self._pending = self._in_thread(self._encoder.add, frames)

    async def finish(self) -> bytes:
        """The encoded video; raises MediaFailed."""
        await self._settle()
        finishing = self._pending = self._in_thread(self._encoder.finish)
        return await asyncio.shield(finishing)

    async def _settle(self) -> None:
        """Waits for the running chunk; a cancelled wait leaves it running for `__aexit__`."""
        if self._pending is not None:
            await asyncio.shield(self._pending)

    def _in_thread(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, partial(function, *arguments))
