"""The synchronous client. Thread-safe: each call is a stream of its own over one shared channel."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from zoetrope_client import codec
from zoetrope_client.picture import ImageSource, read_image
from zoetrope_client.video import Video, collect
from zoetrope_core.contract import Response
from zoetrope_core.request import GenerateRequest


class Client:
    """A connection to one server; a context manager.

    Example:
        >>> with Client("127.0.0.1:8001") as client:
        ...     client.generate("photo.jpg", seed=7).save("photo.mp4")
    """

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        *,
        credentials: Any = None,
        headers: Mapping[str, str] | None = None,
        channel_args: Iterable[tuple[str, Any]] = (),
    ) -> None:
        """Opens a channel; the connection itself is made by the first call.

        Args:
            url: HOST:PORT of the server's gRPC endpoint.
            credentials: `grpc.ChannelCredentials` for TLS, plain text without.
            headers: sent with every call, such as a token for a gateway.
            channel_args: gRPC channel arguments over the client's own (message sizes, keepalive).
        """
        self._url = url
        self._metadata = tuple((headers or {}).items())
        options = codec.channel_options(channel_args)
        self._channel: Any = (
            grpc.secure_channel(url, credentials, options)
            if credentials
            else grpc.insecure_channel(url, options)
        )
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; streams that still run are cancelled."""
        self._channel.close()

    def health(self, timeout_s: float = 5.0) -> bool:
        """Whether the server answers and is ready."""
        try:
            answer = self._stub.ServerReady(
                service_pb2.ServerReadyRequest(), metadata=self._metadata, timeout=timeout_s
            )
        except grpc.RpcError:
            return False
        return bool(answer.ready)

    def generate(
        self,
        image: ImageSource,
        request: GenerateRequest | None = None,
        *,
        deadline_s: float | None = None,
        **fields: Any,
    ) -> Video:
        """Generates a video and waits for it; arguments and errors are those of `stream`."""
        with closing(self.stream(image, request, deadline_s=deadline_s, **fields)) as responses:
            return collect(responses)

    def stream(
        self,
        image: ImageSource,
        request: GenerateRequest | None = None,
        *,
        deadline_s: float | None = None,
        **fields: Any,
    ) -> Generator[Response, None, None]:
        """Generates a video and yields the responses as they come, `done` last.

        Leaving the loop early (`break` and dropping the iterator, `close()`, an exception, Ctrl-C) cancels
        the request on the server.

        Args:
            image: a path, encoded bytes, a binary file, a PIL image or a uint8 array.
            request: the request; its defaults when absent.
            deadline_s: seconds after which the request is given up; the server refuses at once what cannot
                be done by then.
            **fields: fields of GenerateRequest, over those of `request`.

        Raises:
            InvalidRequest: the request or the image is not acceptable; found here or by the server.
            Refused: the server cannot take it now (`Overloaded`, `Draining`), or the deadline has passed.
            ServerUnavailable: no server is ready at the address.
            ConnectionLost: the stream broke off.
            ZoetropeError: whatever else the server reports.
            OSError: the image's file cannot be read.
        """
        wanted = codec.build_request(request, fields, deadline_s)
        return self._responses(codec.encode(read_image(image), wanted), wanted.deadline_s)

    def _responses(self, message: Any, deadline_s: float | None) -> Generator[Response, None, None]:
        reader = codec.StreamReader(self._url)
        call = self._stub.ModelStreamInfer(iter((message,)), metadata=self._metadata, timeout=deadline_s)
        try:
            for received in call:
                if (response := reader.read(received)) is not None:
                    yield response
                if reader.failed:
                    _await_end(call)
                    break
            reader.end()
        except grpc.RpcError as error:
            if failure := reader.failure(error.code().name, error.details()):
                raise failure from error
        finally:
            call.cancel()


def _await_end(call: Any) -> None:
    """Gives a stream a moment to end by itself."""
    ended = threading.Event()
    if call.add_callback(ended.set):
        ended.wait(codec.END_SECONDS)
