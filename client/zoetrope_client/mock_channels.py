"""What stands in for a gRPC channel: calls that a handler answers, in this process."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from zoetrope_client.events import Event, Fragment, Frames, Preview
from zoetrope_client.retry import Clock
from zoetrope_core import contract
from zoetrope_core.contract import Response
from zoetrope_core.errors import ZoetropeError
from zoetrope_core.events import Failed
from zoetrope_core.request import GenerateRequest

Answer: TypeAlias = Event | Response | service_pb2.ModelStreamInferResponse
"""What a handler yields: an event as `Client.stream` has it, or what it is made of on the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request for a video as it arrives.

    Attributes:
        image: the encoded image.
        request: the request; its `deadline_s` is what is left of it.
        headers: those of the call, with names in lower case.
        timeout_s: the gRPC deadline.
        cancelled: is set once the client gives the call up before its end.
    """

    image: bytes
    request: GenerateRequest
    headers: Mapping[str, str | bytes]
    timeout_s: float | None
    cancelled: threading.Event = field(default_factory=threading.Event)


Handler: TypeAlias = Callable[[Call], Iterable[Answer]]


class StatusError(grpc.RpcError):  # type: ignore[misc]
    """Raised by a handler, it ends the stream with a gRPC status, as a network or a proxy does."""

    def __init__(self, status: grpc.StatusCode, text: str = "") -> None:
        super().__init__(text)
        self._status, self._text = status, text

    def code(self) -> grpc.StatusCode:
        """The status."""
        return self._status

    def details(self) -> str:
        """The status message."""
        return self._text


class Server(Protocol):
    """What answers the calls of a channel, and keeps them."""

    handler: Handler
    clock: Clock
    calls: list[Call]
    headers: list[dict[str, str | bytes]]

    def answer_unary(self, method: str) -> Any:
        """The answer to a call that is no stream."""


class Stream:
    """A call of `ModelStreamInfer`, with the methods that a client of either kind asks it for."""

    def __init__(self, call: Call, server: Server) -> None:
        self._call, self._clock = call, server.clock
        self._ends_at = self._clock.now() + (math.inf if call.timeout_s is None else call.timeout_s)
        self._messages = self._run(server.handler)

    def _run(self, handler: Handler) -> Generator[Any, None, None]:
        try:
            for each in handler(self._call):
                self._check_deadline()
                yield encode(each)
        except ZoetropeError as error:
            yield encode(Response(event=_failed(error)))
        self._check_deadline()

    def _check_deadline(self) -> None:
        if self._clock.now() >= self._ends_at:
            raise StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._call.cancelled.is_set():
            raise StatusError(grpc.StatusCode.CANCELLED, "cancelled by the client")
        return next(self._messages)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)  # as a network does, it lets other tasks run
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None

    def cancel(self) -> bool:
        """Ends the call from the client's side; says whether it was still open."""
        if inspect.getgeneratorstate(self._messages) == inspect.GEN_CLOSED:
            return False
        self._call.cancelled.set()
        with suppress(ValueError):  # the handler runs in another thread, and sees `cancelled`
            self._messages.close()
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Runs to the end if that comes next; nothing ends later by itself, so there is no callback."""
        with suppress(grpc.RpcError):
            next(self._messages, None)
        return False

    async def code(self) -> grpc.StatusCode:
        """The status at the end of the stream."""
        self.add_callback(lambda: None)
        return grpc.StatusCode.OK


class Channel:
    """The part of `grpc.Channel` that the clients call."""

    _closed_error: type[Exception] = ValueError

    def __init__(self, server: Server) -> None:
        self._server, self._closed = server, False
        self._streams: list[Stream] = []

    def unary_unary(self, path: str, **serializers: Any) -> Callable[..., Any]:
        """A method with one request and one response."""

        def call(message: Any, metadata: Any = (), timeout: float | None = None) -> Any:
            self._begin(metadata)
            return self._server.answer_unary(path.rpartition("/")[2])

        return call

    def stream_stream(
        self, path: str, request_serializer: Callable[[Any], bytes], **others: Any
    ) -> Callable[..., Stream]:
        """A method with a stream each way; the first request is the only one."""

        def call(messages: Iterator[Any], metadata: Any = (), timeout: float | None = None) -> Stream:
            headers = self._begin(metadata)
            sent = service_pb2.ModelInferRequest.FromString(request_serializer(next(messages)))
            image, request = decode(sent)
            found = Call(image=image, request=request, headers=headers, timeout_s=timeout)
            self._server.calls.append(found)
            self._streams.append(Stream(found, self._server))
            return self._streams[-1]

        return call

    def close(self) -> Any:
        """Cancels what still runs."""
        self._closed = True
        for stream in self._streams:
            stream.cancel()

    def _begin(self, metadata: Any) -> dict[str, str | bytes]:
        if self._closed:
            raise self._closed_error("the channel is closed")
        self._server.headers.append(dict(metadata))
        return self._server.headers[-1]


class AsyncChannel(Channel):
    """The same of `grpc.aio.Channel`."""

    _closed_error = grpc.aio.UsageError

    def unary_unary(self, path: str, **serializers: Any) -> Callable[..., Any]:
        """A method with one request and one response, as a coroutine function."""
        answered = super().unary_unary(path)

        async def call(message: Any, **settings: Any) -> Any:
            return answered(message, **settings)

        return call

    async def close(self) -> None:
        """Cancels what still runs."""
        super().close()


def encode(answer: Answer) -> Any:
    """The `ModelStreamInferResponse` of an answer, as Triton builds it."""
    if isinstance(answer, service_pb2.ModelStreamInferResponse):
        return answer
    message = service_pb2.ModelStreamInferResponse()
    result = message.infer_response
    result.model_name = contract.MODEL
    for name, tensor in contract.pack_response(_response_of(answer)).items():
        text = tensor.dtype == np.object_
        result.outputs.add(name=name, datatype="BYTES" if text else "UINT8", shape=tensor.shape)
        content = serialize_byte_tensor(tensor).item() if text else tensor.tobytes()
        result.raw_output_contents.append(content)
    return message


def decode(message: Any) -> tuple[bytes, GenerateRequest]:
    """The encoded image and the request of a `ModelInferRequest`."""
    tensors = {
        tensor.name: deserialize_bytes_tensor(content).reshape(tuple(tensor.shape))
        for tensor, content in zip(message.inputs, message.raw_input_contents, strict=True)
    }
    return contract.unpack_request(tensors)


def _response_of(answer: Event | Response) -> Response:
    match answer:
        case Response():
            return answer
        case Fragment():
            return Response(video=answer.data)
        case Frames():
            return Response(frames=answer.array)
        case Preview():
            return Response(preview=answer.image)
        case _:
            return Response(event=answer)


def _failed(error: ZoetropeError) -> Failed:
    body = error.to_event()
    named = {name: body.pop(name) for name in ("code", "status", "message")}
    return Failed(**named, details=body)
