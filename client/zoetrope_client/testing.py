"""A transport without a server, for tests of code that uses the clients.

The request, the codec, the retries and the errors are the real ones; only the network and the time are not.

Example:
    >>> def handler(call):
    ...     if call.request.fps > 60:
    ...         raise Overloaded("too busy", retry_after_s=2.0)
    ...     yield Progress(stage="denoise", step=1, steps=1)
    ...     yield from answer(call, b"the video")
    >>> with Client(transport=MockTransport(handler)) as client:
    ...     client.generate("photo.jpg").data
    b'the video'
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from zoetrope_client.events import Event, Fragment
from zoetrope_client.mock_channels import Answer, AsyncChannel, Call, Channel, Handler, StatusError
from zoetrope_client.retry import Clock
from zoetrope_client.transport import BaseTransport
from zoetrope_core.events import Accepted, Done
from zoetrope_core.metadata import PARAMETER, Metadata

__all__ = ["Answer", "Call", "Clock", "Handler", "MockClock", "MockTransport", "StatusError", "answer"]


class MockClock(Clock):
    """A clock that only pauses advance, and they take no time.

    Attributes:
        pauses: the seconds of each pause so far.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self.pauses: list[float] = []

    def now(self) -> float:
        """The seconds of all pauses."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Advances the clock."""
        self.pauses.append(seconds)
        self._now += seconds

    async def sleep_async(self, seconds: float) -> None:
        """Advances the clock, and lets other tasks run."""
        self.sleep(seconds)
        await asyncio.sleep(0)


def answer(call: Call, video: bytes = b"video") -> Iterator[Event]:
    """The least that a server answers to a request that it serves."""
    request = call.request
    seed = request.seed or 0
    yield Accepted(id="mock", seed=seed, steps=request.num_inference_steps)
    yield Fragment(data=video)
    parameters = request.to_dict()
    yield Done(id="mock", seed=seed, parameters=parameters, timings={}, video_bytes=len(video))


class MockTransport(BaseTransport):
    """Answers the calls of a client by a handler, without a socket; for `Client` and `AsyncClient`.

    A `ZoetropeError` that the handler raises arrives as if the server had reported it, and `StatusError` as
    a status; any other exception goes through to the caller.

    Attributes:
        calls: all calls for videos, in order.
        headers: the headers of all calls of any kind, in order.
        ready: what `health` says.
        metadata: what `metadata` finds; with None a server that does not say what it can do.
    """

    def __init__(
        self,
        handler: Handler = answer,
        *,
        ready: bool = True,
        metadata: Metadata | str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Prepares the answers.

        Args:
            handler: a generator function that is called for each attempt; with `AsyncClient` it runs in the
                event loop.
            ready: what `health` says.
            metadata: what `metadata` finds, or the text that it reads.
            clock: the client's time; a `MockClock` without.
        """
        self.url, self.clock = "mock", MockClock() if clock is None else clock
        self.handler, self.ready, self.metadata = handler, ready, metadata
        self.calls: list[Call] = []
        self.headers: list[dict[str, str | bytes]] = []

    def channel(self, kind: Any) -> Any:
        """What stands in for a channel of this kind; see `BaseTransport.channel`."""
        return AsyncChannel(self) if kind is grpc.aio else Channel(self)

    def answer_unary(self, method: str) -> Any:
        """The answer to a call that is no stream."""
        if method == "ServerReady":
            return service_pb2.ServerReadyResponse(ready=self.ready)
        if method != "ModelConfig":
            raise StatusError(grpc.StatusCode.UNIMPLEMENTED, method)
        found = service_pb2.ModelConfigResponse()
        if self.metadata is not None:
            text = self.metadata if isinstance(self.metadata, str) else self.metadata.to_json()
            found.config.parameters[PARAMETER].string_value = text
        return found
