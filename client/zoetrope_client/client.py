"""The synchronous client. Thread-safe: each call is a stream of its own over one shared channel."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Any

import grpc
from tenacity import Retrying
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
    ask_headers,
    resolve,
)
from zoetrope_client.video import Video, collect
from zoetrope_core import contract
from zoetrope_core.metadata import Metadata
from zoetrope_core.request import GenerateRequest


class Client:
    """A connection to one server; a context manager.

    Example:
        >>> with Client("127.0.0.1:8001") as client:
        ...     client.generate("photo.jpg", seed=7).save("photo.mp4")
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
        """Opens a channel; the connection itself is made by the first call.

        Args:
            url: HOST:PORT of the server's gRPC endpoint.
            credentials: `Tls()` for TLS, or any of gRPC's own; plain text without.
            headers: sent with every call, such as a token for a gateway: a mapping, or a function (for
                `AsyncClient` a coroutine function too) that gives one for each attempt of a call.
            retry: how a call is tried again that found no server; `Retry(attempts=1)` never does.
            compression: of what is sent; encoded pictures gain nothing, answers are as the server sends them.
            keepalive_s: seconds between pings that notice a vanished server; None sends none. Servers end
                connections that ping more often than they like, Triton by default every 5 minutes.
            max_message_bytes: the most bytes of one message, each way; 2 GB without.
            channel_args: further gRPC channel arguments; they go before all of these.
            transport: carries the calls in place of a connection to `url`, such as
                `zoetrope_client.testing.MockTransport`; only `headers` and `retry` go with it.

        Raises:
            OSError: a certificate or key cannot be read.
            ValueError: a transport is given, and a setting of the connection that it does not see.
        """
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
        self._channel: Any = self._transport.channel(grpc)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; streams that still run are cancelled."""
        self._channel.close()

    def health(self, *, timeout_s: float = 5.0) -> bool:
        """Whether the server answers and is ready."""
        request, headers = service_pb2.ServerReadyRequest(), ask_headers(self._headers)
        try:
            return bool(self._stub.ServerReady(request, metadata=headers, timeout=timeout_s).ready)
        except grpc.RpcError:
            return False

    def metadata(self, *, timeout_s: float = 5.0) -> Metadata:
        """What the server can do: sizes, frames, samplers, formats, checkpoint, limits.

        Raises:
            NotServed: it is no Zoetrope, an older one, or a Triton that `zoetrope serve` does not run.
            ServerUnavailable: no server is ready at the address.
            ZoetropeError: whatever else the server reports.
        """
        attempts = self._attempts(timeout_s)
        return self._retrying(attempts)(lambda: self._ask_metadata(attempts))

    def generate(
        self,
        image: ImageSource,
        request: GenerateRequest | None = None,
        *,
        deadline_s: float | None = None,
        patience_s: float = 0.0,
        **fields: Any,
    ) -> Video:
        """Generates a video and waits for it; arguments and errors are those of `stream`."""
        events = self.stream(image, request, deadline_s=deadline_s, patience_s=patience_s, **fields)
        with closing(events):
            return collect(events)

    def stream(
        self,
        image: ImageSource,
        request: GenerateRequest | None = None,
        *,
        deadline_s: float | None = None,
        patience_s: float = 0.0,
        **fields: Any,
    ) -> Generator[Event, None, None]:
        """Generates a video and yields the events as they come, `Done` last.

        Leaving the loop early (`break` and dropping the iterator, `close()`, an exception, Ctrl-C) cancels
        the request on the server.

        Args:
            image: a path, encoded bytes, a binary file, a PIL image or a uint8 array.
            request: the request; its defaults when absent.
            deadline_s: seconds after which the request is given up, with all its attempts, header providers
                and the reading of the image; time before the first event is asked for does not count. The
                server refuses at once what cannot be done by then.
            patience_s: seconds for which a refusal that says `retry_after_s` is waited out; 0 raises it.
            **fields: fields of GenerateRequest, over those of `request`.

        Raises:
            InvalidRequest: the request or the image is not acceptable; found here or by the server.
            Refused: the server cannot take it now (`Overloaded`, `Draining`), or the deadline has passed.
            ServerUnavailable: no server is ready at the address.
            ConnectionLost: the stream broke off; it is never begun again.
            ZoetropeError: whatever else the server reports; `zoetrope_client.errors` has the whole tree.
            OSError: the image's file cannot be read.
        """
        wanted = codec.build_request(request, fields, deadline_s)
        attempts = self._attempts(wanted.deadline_s, patience_s)
        data = read_image(image)
        attempts.hold()
        return self._events(data, wanted, attempts)

    def _events(
        self, image: bytes, request: GenerateRequest, attempts: Attempts
    ) -> Generator[Event, None, None]:
        """The events of the first attempt that is answered."""
        attempts.resume()

        def begin() -> tuple[Event, Generator[Event, None, None]]:
            events = self._attempt(image, request, attempts)
            return next(events), events

        first, others = self._retrying(attempts)(begin)
        with closing(others):
            yield first
            yield from others

    def _attempts(self, deadline_s: float | None, patience_s: float = 0.0) -> Attempts:
        return Attempts(
            self._retry, clock=self._transport.clock, deadline_s=deadline_s, patience_s=patience_s
        )

    def _retrying(self, attempts: Attempts) -> Retrying:
        return Retrying(**attempts.policy(), sleep=self._transport.clock.sleep)

    def _attempt(
        self, image: bytes, request: GenerateRequest, attempts: Attempts
    ) -> Generator[Event, None, None]:
        reader = codec.StreamReader(self._transport.url)
        headers = ask_headers(self._headers)  # which may take a while
        rest = attempts.rest(request)
        messages = iter((codec.encode(image, rest),))
        call = self._stub.ModelStreamInfer(messages, metadata=headers, timeout=rest.deadline_s)
        try:
            for received in call:
                yield from reader.read(received)
                if reader.failed:
                    _await_end(call)
                    break
            reader.end()
        except grpc.RpcError as error:
            if failure := reader.failure(error.code().name, error.details()):
                raise failure from error
        finally:
            call.cancel()

    def _ask_metadata(self, attempts: Attempts) -> Metadata:
        request, headers = service_pb2.ModelConfigRequest(name=contract.MODEL), ask_headers(self._headers)
        try:
            answer = self._stub.ModelConfig(request, metadata=headers, timeout=attempts.left_s())
        except grpc.RpcError as error:
            status, text = error.code().name, error.details() or ""
            raise codec.from_status(status, text, url=self._transport.url, started=False) from error
        return codec.read_metadata(answer, self._transport.url)


def _await_end(call: Any) -> None:
    """Gives a stream a moment to end by itself."""
    ended = threading.Event()
    if call.add_callback(ended.set):
        ended.wait(codec.END_SECONDS)
