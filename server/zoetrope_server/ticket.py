"""One request inside the orchestrator: the client's end of it, and what has become of it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from zoetrope_core.contract import Response
from zoetrope_core.errors import Cancelled, DeadlineExceeded, ZoetropeError
from zoetrope_core.events import Progress
from zoetrope_core.specs import Array
from zoetrope_server.admission import Place


class Channel(Protocol):
    """One request as the transport shows it."""

    @property
    def id(self) -> str:
        """The client's name of the request; may be empty."""
        ...

    @property
    def trace_id(self) -> str | None:
        """The OpenTelemetry trace of the request, 32 hexadecimal digits; None when it is not traced."""
        ...

    def read(self) -> Mapping[str, Array]:
        """The input tensors by name."""
        ...

    def cancelled(self) -> bool:
        """Whether the client has gone or has cancelled."""
        ...

    def send(self, response: Response) -> None:
        """Sends one response; may block for the time of a copy."""
        ...

    def finish(self, error: ZoetropeError | None) -> None:
        """Ends the stream; must be called exactly once."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """One request inside the orchestrator; the pipeline's `Stream`."""

    id: str
    channel: Channel
    media: Executor
    task: asyncio.Task[None] | None = None
    sending: asyncio.Future[None] | None = None
    failure: ZoetropeError | None = None
    place: Place | None = None
    arrived: float = field(default_factory=time.monotonic)
    outbox: deque[Response] = field(default_factory=deque)
    broken: Exception | None = None

    def check(self) -> None:
        """Raises when the request must not go on: it was failed, cancelled, or its deadline has passed."""
        if self.failure is not None:
            raise self.failure
        if self.broken is not None:
            raise self.broken
        if self.channel.cancelled():
            raise Cancelled("the client has cancelled")
        if self.place is not None and self.place.due is not None and time.monotonic() > self.place.due:
            allowed = self.place.due - self.arrived
            raise DeadlineExceeded(f"the deadline of {allowed:.1f} s passed before the video was complete")

    async def send(self, response: Response) -> None:
        """Sends in order: an event as soon as the caller waits for something, megabytes in a thread.

        An event costs as much as the arithmetic of a sampler's step. This way it goes out while the next
        stage call is already under way.
        """
        loop = asyncio.get_running_loop()
        if self.place is not None and isinstance(response.event, Progress):
            self.place.advance(response.event)
        if response.video is None and response.frames is None:
            self.outbox.append(response)
            loop.call_soon(self._flush_later)
            return
        while self.sending is not None and not self.sending.done():
            await asyncio.wait([self.sending])  # frames and a part of the video may come together
        self.flush()
        # Megabytes are copied: in a thread, so that other requests' steps go on.
        self.sending = loop.run_in_executor(self.media, self.channel.send, response)
        self.sending.add_done_callback(lambda _: self._flush_later())
        await asyncio.shield(self.sending)

    def flush(self) -> None:
        """Sends now what has not been sent yet."""
        while self.outbox:
            self.channel.send(self.outbox.popleft())

    def _flush_later(self) -> None:
        if self.sending is not None and not self.sending.done():
            return  # its end calls again
        try:
            self.flush()
        except Exception as error:
            # Nobody awaits this; the request meets it at its next check.
            self.outbox.clear()
            self.broken = error

    def abort(self, error: ZoetropeError) -> None:
        """Ends the request even while it waits for a stage; on the event loop."""
        self.failure = self.failure or error
        if self.task is not None:
            self.task.cancel()
