"""The encoded video on its way to the client, in pieces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from zoetrope_core import contract


class VideoSender:
    """Sends one video in pieces of at most `PIECE_BYTES`: at its end, or part by part as the file grows."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]], *, unit: int = 1) -> None:
        """Takes what sends a piece; each piece but the last will be a multiple of `unit` bytes."""
        self._send_piece = send
        self._unit = unit
        self._held = b""
        self.sent = 0

    async def part(self, data: bytes) -> None:
        """Sends the next part of the file; up to `unit - 1` bytes of it wait for the next one."""
        data = self._held + data
        ready = len(data) - len(data) % self._unit
        self._held = data[ready:]
        await self._send(data[:ready])

    async def last(self, data: bytes) -> None:
        """Sends the rest of the file."""
        await self._send(self._held + data)

    async def _send(self, data: bytes) -> None:
        for piece in contract.pieces(data):
            await self._send_piece(piece)
            self.sent += len(piece)
