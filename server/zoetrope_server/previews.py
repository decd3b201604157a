"""Previews of a video while it is denoised, made beside the steps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from types import TracebackType
from typing import Self

from zoetrope_core.manifest import Manifest
from zoetrope_core.preview import preview
from zoetrope_core.request import ValidRequest
from zoetrope_core.sampling import Step
from zoetrope_core.specs import Array
from zoetrope_server.media.animation import animated_webp

_logger = logging.getLogger(__name__)

Send = Callable[[bytes], Awaitable[None]]


class Previews:
    """The previews of one request: at most one is being made, in a thread, and no step waits for it."""

    def __init__(self, request: ValidRequest, manifest: Manifest, executor: Executor, send: Send) -> None:
        """Makes what the request asks for; `send` takes each WebP file."""
        self._every = request.preview_every if manifest.latent_rgb else 0
        self._make = partial(_make, manifest=manifest, fps=request.fps)
        self._executor = executor
        self._send = send
        self._making: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the preview that is being made, so that none comes late; after an error, drops it."""
        if self._making is None:
            return
        try:
            if error is None:
                await asyncio.wait([self._making])
        finally:
            self._making.cancel()

    def offer(self, step: Step) -> None:
        """Starts a preview where one is due; skips it while the one before is still being made."""
        busy = self._making is not None and not self._making.done()
        if self._every and step.number % self._every == 0 and not busy:
            self._making = asyncio.create_task(self._show(step.denoised))

    async def _show(self, denoised: Array) -> None:
        loop = asyncio.get_running_loop()
        try:
            await self._send(await loop.run_in_executor(self._executor, self._make, denoised))
        except Exception:
            # The video does not depend on it.
            _logger.warning("a preview could not be made", exc_info=True)


def _make(denoised: Array, *, manifest: Manifest, fps: int) -> bytes:
    """Clean latents f32 [F,C,h,w] to a WebP file."""
    frames = preview(denoised, manifest.latent_rgb or (), manifest.scaling_factor)
    return animated_webp(frames, fps=fps)
