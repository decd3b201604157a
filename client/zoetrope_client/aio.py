"""The asynchronous client: the methods of `Client` as coroutines, over the same codec."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import grpc
from tenacity import AsyncRetrying
from tritonclient.grpc import service_pb2, service_pb2_grpc

from zoetrope_client import codec
from zoetrope_client.events import Event
from zoetrope_client.picture import ImageSource, read_image
from zoetrope_client.retry import USUAL, Attempts, Retry
from zoetrope_client.transport import (
    USUAL_URL,
    BaseTransport,
    Compression,
    Headers,
    Tls,
    ask_headers_async,
    resolve,
)
from zoetrope_client.video import Assembly, Video
from zoetrope_core import contract
from zoetrope_core.errors import Cancelled
from zoetrope_core.metadata import Metadata
from zoetrope_core.request import GenerateRequest

_Answered: TypeAlias = tuple[Event, AsyncGenerator[Event, None]]
"""The first event of a stream, and the stream of all others."""
_T = TypeVar("_T")


class AsyncClient:
    """A connection to one server; an asynchronous context manager, for one event loop.

    Example:
        >>> async with AsyncClient("127.0.0.1:8001") as client:
        ...     (await client.generate("photo.jpg", seed=7)).save("photo.mp4")
    """

    def __init__(
        self,
        url: str = USUAL_URL,
        *,
        credentials: Tls | grpc.ChannelCredentials | None = None,
        headers: Headers | None = None,
        retry: Retry = USUAL,
        compression: Compression | None = None,
        keepalive_s: float | None = codec.KEEPALIVE_S,
        max_message_bytes: int | None = None,
        channel_args: Iterable[tuple[str, Any]] = (),
        transport: BaseTransport | None = None,
    ) -> None:
        """Prepares the connection; arguments and errors as for `Client`."""
        self._headers, self._retry = headers, retry
        self._transport = resolve(
            transport,
            url=url,
            credentials=credentials,
            compression=compression,
            keepalive_s=keepalive_s,
            max_message_bytes=max_message_bytes,
            channel_args=channel_args,
        )

    @cached_property
    def _channel(self) -> Any:
        """Opened by the first call, since a channel belongs to the event loop that it is made in."""
        return self._transport.channel(grpc.aio)

    @cached_property
    def _stub(self) -> Any:
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls that still run are cancelled, and raise `Cancelled`."""
        await self._channel.close()

    async def health(self, *, timeout_s: float = 5.0) -> bool:
        """Whether the server answers and is ready."""
        request, headers = service_pb2.ServerReadyRequest(), await ask_headers_async(self._headers)
        try:
            with _closing_told_apart():
                answer = await self._stub.ServerReady(request, metadata=headers, timeout=timeout_s)
        except (grpc.RpcError, Cancelled):
            return False
        return bool(answer.ready)

    async def metadata(self, *, timeout_s: float = 5.0) -> Metadata:
        """What the server can do; errors as of `Client.metadata`."""
        attempts = self._attempts(timeout_s)

        async def ask() -> Metadata:
            return await self._ask_metadata(attempts)

        found: Metadata = await self._retrying(attempts)(ask)
        return found

    async def generate(
        self,
        image: ImageSource,
        request: GenerateRequest | None = None,
        *,
        deadline_s: float | None = None,
        patience_s: float = 0.0,
        **fields: Any,
    ) -> Video:
        """Generates a video; cancelling the task cancels the request. See `Client.stream`."""
        assembly = Assembly()
        events = self.stream(image, request, deadline_s=deadline_s, patience_s=patience_s, **fields)
        async with aclosing(events):
            async for event in events:
                assembly.add(event)
        return assembly.video()

    def stream(
        self,
        image: ImageSource,
        request: GenerateRequest | None = None,
        *,
        deadline_s: float | None = None,
        patience_s: float = 0.0,
        **fields: Any,
    ) -> AsyncGenerator[Event, None]:
        """Generates a video and yields the events as they come; arguments and errors as `Client.stream`.

        The image is read in a thread, so its errors come with the first event. Cancelling the task or
        `aclose()` cancels the request on the server. After a bare `break` that happens only once the iterator
        is collected: use `contextlib.aclosing`.
        """
        wanted = codec.build_request(request, fields, deadline_s)
        attempts = self._attempts(wanted.deadline_s, patience_s)
        attempts.hold()
        return self._events(image, wanted, attempts)

    async def _events(
        self, image: ImageSource, request: GenerateRequest, attempts: Attempts
    ) -> AsyncGenerator[Event, None]:
        """The events of the first attempt that is answered."""
        attempts.resume()
        data = await _in_time(asyncio.to_thread(read_image, image), attempts)

        async def begin() -> _Answered:
            events = self._attempt(data, request, attempts)
            return await anext(events), events

        answered: _Answered = await self._retrying(attempts)(begin)
        first, others = answered
        async with aclosing(others):
            yield first
            async for event in others:
                yield event

    def _attempts(self, deadline_s: float | None, patience_s: float = 0.0) -> Attempts:
        return Attempts(
            self._retry, clock=self._transport.clock, deadline_s=deadline_s, patience_s=patience_s
        )

    def _retrying(self, attempts: Attempts) -> AsyncRetrying:
        return AsyncRetrying(**attempts.policy(), sleep=self._transport.clock.sleep_async)

    async def _attempt(
        self, image: bytes, request: GenerateRequest, attempts: Attempts
    ) -> AsyncGenerator[Event, None]:
        reader = codec.StreamReader(self._transport.url)
        headers = await _in_time(ask_headers_async(self._headers), attempts)
        rest = attempts.rest(request)
        messages = iter((codec.encode(image, rest),))
        with _closing_told_apart():
            call = self._stub.ModelStreamInfer(messages, metadata=headers, timeout=rest.deadline_s)
        try:
            with _closing_told_apart():
                async for received in call:
                    for event in reader.read(received):
                        yield event
                    if reader.failed:
                        with suppress(TimeoutError):
                            await asyncio.wait_for(call.code(), codec.END_SECONDS)
                        break
            reader.end()
        except grpc.RpcError as error:
            if failure := reader.failure(error.code().name, error.details()):
                raise failure from error
        finally:
            call.cancel()

    async def _ask_metadata(self, attempts: Attempts) -> Metadata:
        request = service_pb2.ModelConfigRequest(name=contract.MODEL)
        headers = await _in_time(ask_headers_async(self._headers), attempts)
        try:
            with _closing_told_apart():
                answer = await self._stub.ModelConfig(request, metadata=headers, timeout=attempts.left_s())
        except grpc.RpcError as error:
            status, text = error.code().name, error.details() or ""
            raise codec.from_status(status, text, url=self._transport.url, started=False) from error
        return codec.read_metadata(answer, self._transport.url)


@contextmanager
def _closing_told_apart() -> Iterator[None]:
    """Closing a channel ends its calls as if their tasks were cancelled, which they are not."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Cancelled("the client was closed") from error
    except grpc.aio.UsageError as error:  # of a call that would begin after that
        raise Cancelled("the client was closed") from error


async def _in_time(waiting: Awaitable[_T], attempts: Attempts) -> _T:
    """What is awaited; raises DeadlineExceeded where the deadline passes first."""
    left_s = attempts.left_s()
    try:
        async with asyncio.timeout(None if left_s == math.inf else left_s) as limit:
            return await waiting
    except TimeoutError as error:
        if limit.expired():
            raise attempts.too_late() from error
        raise  # the provider's own
