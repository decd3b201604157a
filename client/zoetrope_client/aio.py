"""The asynchronous client: the methods of `Client` as coroutines, over the same codec."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, suppress
from functools import cached_property
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from zoetrope_client import codec
from zoetrope_client.picture import ImageSource, read_image
from zoetrope_client.video import Assembly, Video
from zoetrope_core.contract import Response
from zoetrope_core.request import GenerateRequest


class AsyncClient:
    """A connection to one server; an asynchronous context manager, for one event loop.

    Example:
        >>> async with AsyncClient("127.0.0.1:8001") as client:
        ...     (await client.generate("photo.jpg", seed=7)).save("photo.mp4")
    """

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        *,
        credentials: Any = None,
        headers: Mapping[str, str] | None = None,
        channel_args: Iterable[tuple[str, Any]] = (),
    ) -> None:
        """Prepares the connection; arguments as for `Client`."""
        self._url = url
        self._credentials = credentials
        self._metadata = tuple((headers or {}).items())
        self._options = codec.channel_options(channel_args)

    @cached_property
    def _channel(self) -> Any:
        """Opened by the first call, since a channel belongs to the event loop that it is made in."""
        if self._credentials:
            return grpc.aio.secure_channel(self._url, self._credentials, self._options)
        return grpc.aio.insecure_channel(self._url, self._options)

    @cached_property
    def _stub(self) -> Any:
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; streams that still run are cancelled."""
        await self._channel.close()

    async def health(self, timeout_s: float = 5.0) -> bool:
        """Whether the server answers and is ready."""
        try:
            answer = await self._stub.ServerReady(
                service_pb2.ServerReadyRequest(), metadata=self._metadata, timeout=timeout_s
            )
        except grpc.RpcError:
            return False
        return bool(answer.ready)

    async def generate(
        self,
        image: ImageSource,
        request: GenerateRequest | None = None,
        *,
        deadline_s: float | None = None,
        **fields: Any,
    ) -> Video:
        """Generates a video; cancelling the task cancels the request. See `Client.stream`."""
        assembly = Assembly()
        async with aclosing(self.stream(image, request, deadline_s=deadline_s, **fields)) as responses:
            async for response in responses:
                assembly.add(response)
        return assembly.video()

    def stream(
        self,
        image: ImageSource,
        request: GenerateRequest | None = None,
        *,
        deadline_s: float | None = None,
        **fields: Any,
    ) -> AsyncGenerator[Response, None]:
        """Generates a video and yields the responses as they come; arguments and errors as `Client.stream`.

        Cancelling the task or `aclose()` cancels the request on the server. After a bare `break` that
        happens only once the iterator is collected: use `contextlib.aclosing`.
        """
        wanted = codec.build_request(request, fields, deadline_s)
        return self._responses(codec.encode(read_image(image), wanted), wanted.deadline_s)

    async def _responses(self, message: Any, deadline_s: float | None) -> AsyncGenerator[Response, None]:
        reader = codec.StreamReader(self._url)
        call = self._stub.ModelStreamInfer(iter((message,)), metadata=self._metadata, timeout=deadline_s)
        try:
            async for received in call:
                if (response := reader.read(received)) is not None:
                    yield response
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
