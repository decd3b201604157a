"""The pure half of both clients: what to send for a request, and what the answers mean. No I/O.

The clients speak through the stub that tritonclient generates from Triton's protocol, not through its
`InferenceServerClient`: that one allows one stream at a time, and does not say when a stream ends without
an error and without `done`. They do not send the header `triton_grpc_error`: the `error` event says more
than a status does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE, InferResult, service_pb2
from tritonclient.utils import serialize_byte_tensor

from zoetrope_client.errors import (
    BY_PLAIN_STATUS,
    BadResponse,
    ConnectionLost,
    NotServed,
    ServerUnavailable,
)
from zoetrope_client.events import Event, events_of
from zoetrope_core import contract, errors
from zoetrope_core.contract import Response
from zoetrope_core.errors import ZoetropeError, from_code
from zoetrope_core.events import Done, Failed
from zoetrope_core.metadata import PARAMETER, Metadata
from zoetrope_core.request import GenerateRequest

KEEPALIVE_S = 310.0
"""Seconds between pings that notice a peer that has vanished; servers count pings more frequent than every 5
minutes as abuse, and end the connection."""
_RECONNECT_MS = {
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.min_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 2000,
}
"""A channel that found no server fails calls without a look until its own pause is over, which grows to two
minutes by default: a retry within it would be none."""

_RESTRICTED = "This protocol is restricted"
"""What Triton says to a call that needs its secret."""
END_SECONDS = 1.0
"""How long a stream may take to end after its last event."""


def channel_options(
    extra: Mapping[str, Any], *, keepalive_s: float | None, max_message_bytes: int | None
) -> list[tuple[str, Any]]:
    """The gRPC channel arguments.

    Args:
        extra: arguments that go before all others.
        keepalive_s: seconds between pings; None sends none.
        max_message_bytes: the most bytes of one message each way; None for gRPC's largest (2 GB).
    """
    size = MAX_GRPC_MESSAGE_SIZE if max_message_bytes is None else max_message_bytes
    sizes = {"grpc.max_send_message_length": size, "grpc.max_receive_message_length": size}
    pings = {} if keepalive_s is None else {"grpc.keepalive_time_ms": round(keepalive_s * 1000)}
    return list({**sizes, **pings, **_RECONNECT_MS, **extra}.items())


def build_request(
    request: GenerateRequest | None, fields: Mapping[str, Any], deadline_s: float | None = None
) -> GenerateRequest:
    """The request with `fields` put over it; raises InvalidRequest, before anything is sent.

    The server does not see a gRPC deadline, so `deadline_s` travels in the request too.
    """
    own = {} if deadline_s is None else {"deadline_s": deadline_s}
    return GenerateRequest.from_dict({**(request.to_dict() if request else {}), **fields, **own})


def encode(image: bytes, request: GenerateRequest) -> Any:
    """The ModelInferRequest for the decoupled entry model.

    Args:
        image: an encoded JPEG, PNG or WebP.
        request: the request; only the server can check it against the checkpoint.
    """
    message = service_pb2.ModelInferRequest(model_name=contract.MODEL)
    for name, tensor in contract.pack_request(image, request).items():
        message.inputs.add(name=name, datatype="BYTES", shape=tensor.shape)
        message.raw_input_contents.append(serialize_byte_tensor(tensor).item())
    return message


def decode(message: Any) -> Response:
    """The response in a ModelStreamInferResponse.

    Raises:
        BadResponse: not of this version's contract.
        ZoetropeError: the message is an error.
    """
    if message.error_message:
        raise _from_text(message.error_message, "INTERNAL")
    result = InferResult(message.infer_response)
    try:
        found = ((name, result.as_numpy(name)) for name in contract.RESPONSE_OUTPUTS)
        return contract.unpack_response({name: tensor for name, tensor in found if tensor is not None})
    except (ValueError, errors.InvalidRequest) as error:
        raise BadResponse(f"the server's response cannot be read: {error}") from error


def read_metadata(message: Any, url: str) -> Metadata:
    """What a ModelConfigResponse says that the server can do.

    Raises:
        NotServed: it says nothing of it.
        BadResponse: it says something that is not of this version's contract.
    """
    parameters = message.config.parameters
    if PARAMETER not in parameters:
        raise NotServed(
            f"{url}: the server does not say what it can do: it is older, or not run by `zoetrope serve`"
        )
    try:
        return Metadata.from_json(parameters[PARAMETER].string_value)
    except ValueError as error:
        raise BadResponse(f"the server's metadata cannot be read: {error}") from error


def from_event(event: Failed) -> ZoetropeError:
    """The error that an `error` event reports, with its details."""
    return from_code(event.code, event.message, status=event.status, details=event.details)


class StreamReader:
    """Follows one stream from its first response to its end; knows what each way of ending means.

    After an `error` event the stream is given `END_SECONDS` to end, and `end` raises the error: a client that
    left at once would cancel a stream that is just ending, and that costs Triton 2.51 memory, or its life.
    """

    __slots__ = ("_done", "_error", "_started", "_url")

    def __init__(self, url: str) -> None:
        self._url = url
        self._started = self._done = False
        self._error: ZoetropeError | None = None

    @property
    def failed(self) -> bool:
        """Whether an `error` event has come; nothing follows it."""
        return self._error is not None

    def read(self, message: Any) -> tuple[Event, ...]:
        """The events of the next response; none of one without any part or with an `error` event."""
        response = decode(message)
        if isinstance(response.event, Failed):
            self._error = from_event(response.event)
            return ()
        self._started = True
        self._done = self._done or isinstance(response.event, Done)
        return events_of(response)

    def end(self) -> None:
        """The stream has ended without a status; raises its error, or ConnectionLost without a `done`."""
        if self._error is not None:
            raise self._error
        if not self._done:
            raise ConnectionLost(f"{self._url}: the stream ended before the video was complete")

    def failure(self, status: str, text: str | None) -> ZoetropeError | None:
        """The error of a stream that ended with a gRPC status; None when the video had already come.

        What the server has said itself goes before the status.

        Args:
            status: the name of the status code, such as `UNAVAILABLE`.
            text: the status message.
        """
        if self._error is not None or self._done:
            return self._error
        return from_status(status, text or status, url=self._url, started=self._started)


def from_status(status: str, text: str, *, url: str, started: bool) -> ZoetropeError:
    """The error of a gRPC status.

    Args:
        status: the name of the status code.
        text: the status message; JSON with a `code` where the server refuses.
        url: the server's address, for the message.
        started: whether a response had come before.
    """
    if _RESTRICTED in text:
        return NotServed(
            f"{url}: the server keeps this to itself (zoetrope serve --open-statistics opens it)"
        )
    if status in ("UNAVAILABLE", "UNKNOWN") and _json(text) is None:
        if started:
            return ConnectionLost(f"{url}: the connection broke off ({text})")
        return ServerUnavailable(f"{url}: no server is ready there ({text})", grpc_status=status)
    if status == "DEADLINE_EXCEEDED":
        return errors.DeadlineExceeded(f"{url}: the deadline passed before the video was complete ({text})")
    return _from_text(text, status)


def _from_text(text: str, status: str) -> ZoetropeError:
    body = _json(text)
    if body is None:
        return BY_PLAIN_STATUS.get(status, ZoetropeError)(text)
    return from_code(str(body["code"]), str(body.get("message", text)), status=status, details=body)


def _json(text: str) -> dict[str, Any] | None:
    """The JSON object with a `code` in a status message, which Triton may put words before."""
    try:
        body = json.loads(text[max(text.find("{"), 0) :])
    except ValueError:
        return None
    return body if isinstance(body, dict) and "code" in body else None
