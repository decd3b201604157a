"""Encoding one chunk of frames while the next is being decoded by its engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from types import TracebackType
from typing import Self

from zoetrope_core.specs import Array
from zoetrope_server.media.encode import VideoEncoder

OnPart = Callable[[bytes], Awaitable[None]]
"""Awaited with each part of the file that is ready before its end."""


class OverlappedEncoder:
    """A `VideoEncoder` in a thread, one chunk at a time; leaving the context waits for the thread."""

    def __init__(self, encoder: VideoEncoder, executor: Executor, on_part: OnPart) -> None:
        """Takes the encoder over."""
        self._encoder = encoder
        self._executor = executor
        self._on_part = on_part
        self._pending: asyncio.Task[bytes] | None = None
        self._working: asyncio.Future[bytes] | None = None
        self.seconds = 0.0
        """How long the encoder has worked, most of it beside what else went on."""

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops passing on parts, lets the thread end and frees the codec, finished or not."""
        if self._pending is not None:
            self._pending.cancel()
            busy = [future for future in (self._pending, self._working) if future is not None]
            while not all(future.done() for future in busy):
                # Another cancellation may interrupt the wait; the thread still holds the codec then.
                with suppress(asyncio.CancelledError):
                    await asyncio.wait(busy)
            if not self._pending.cancelled():
                self._pending.exception()  # raised already, or of no interest after another error
        with self._encoder:
            pass

    async def add(self, frames: Array) -> None:
        """Starts to encode u8 [f,H,W,3], once the chunk before is done; raises MediaFailed for that one."""
        await self._settle()
        self._pending = asyncio.create_task(self._add(frames))

    async def finish(self) -> bytes:
        """The rest of the video, after all parts; raises MediaFailed."""
        await self._settle()
        self._pending = asyncio.create_task(self._in_thread(self._encoder.finish))
        return await asyncio.shield(self._pending)

    async def _add(self, frames: Array) -> bytes:
        """Encodes one chunk and passes on what came of it; returns the same."""

        def grown() -> bytes:
            self._encoder.add(frames)
            return self._encoder.take()

        if part := await self._in_thread(grown):
            await self._on_part(part)
        return part

    async def _settle(self) -> None:
        """Waits for the running chunk; a cancelled wait leaves it running for `__aexit__`."""
        if self._pending is not None:
            await asyncio.shield(self._pending)

    async def _in_thread(self, function: Callable[[], bytes]) -> bytes:
        """Runs a function that uses the codec; a cancelled wait leaves it running for `__aexit__`."""

        def timed() -> bytes:
            began = time.perf_counter()
            try:
                return function()
            finally:
                self.seconds += time.perf_counter() - began

        self._working = asyncio.get_running_loop().run_in_executor(self._executor, timed)
        return await asyncio.shield(self._working)
