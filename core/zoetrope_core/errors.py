"""The error tree. Each error owns the code that travels on the wire.

The way of an error: whatever raises it (validation, media, a stage, the queue) raises one of these;
the one wrapper around every request turns it into an `error` event (`to_event()`), the last of the stream;
the unary model ends its call with the gRPC status named by `status`.

Tree::

    ZoetropeError                  internal             INTERNAL
    +-- InvalidRequest             invalid_argument     INVALID_ARGUMENT
    |   +-- InvalidImage           invalid_image        INVALID_ARGUMENT
    +-- Refused                    unavailable          UNAVAILABLE
    |   +-- Overloaded             overloaded           UNAVAILABLE
    |   +-- Draining               draining             UNAVAILABLE
    |   +-- DeadlineExceeded       deadline             UNAVAILABLE
    +-- Cancelled                  cancelled            CANCELLED
    +-- StageFailed                stage_failed         INTERNAL
    |   +-- NonFinite              non_finite           INTERNAL
    |   +-- StageLost              stage_lost           UNAVAILABLE
    +-- MediaFailed                media_failed         INTERNAL

Triton's python backend has neither RESOURCE_EXHAUSTED nor DEADLINE_EXCEEDED, so a refusal is UNAVAILABLE
whose message is JSON with a `code`; a client retries only an UNAVAILABLE without one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar


class ZoetropeError(Exception):
    """Base of all errors. `code` is the wire code, `status` the gRPC status name; `details` is JSON-ready."""

    code: ClassVar[str] = "internal"
    status: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = {key: value for key, value in details.items() if value is not None}

    def to_event(self) -> dict[str, Any]:
        """The error as the JSON-ready body of an `error` event: code, status, message and details."""
        return {"code": self.code, "status": self.status, "message": self.message, **self.details}

    def status_message(self) -> str:
        """The text that goes with the gRPC status: prose, or JSON where a client must read it (refusals)."""
        return self.message


class InvalidRequest(ZoetropeError):
    """The request cannot be served as written. Details: `field`, `value`, `allowed`, `suggestion`."""

    code = "invalid_argument"
    status = "INVALID_ARGUMENT"


class InvalidImage(InvalidRequest):
    """The input image cannot be read or breaks a limit."""

    code = "invalid_image"


class Refused(ZoetropeError):
    """The server cannot take the request now. Details: `retry_after_s`."""

    code = "unavailable"
    status = "UNAVAILABLE"

    def status_message(self) -> str:
        """JSON with `code`, `message` and `retry_after_s`, so that a client need not parse prose."""
        return json.dumps({"code": self.code, "message": self.message, **self.details})


class Overloaded(Refused):
    """The queue is full."""

    code = "overloaded"


class Draining(Refused):
    """The server is shutting down and takes no new work."""

    code = "draining"


class DeadlineExceeded(Refused):
    """The request's deadline has passed or cannot be met."""

    code = "deadline"


class Cancelled(ZoetropeError):
    """The client has gone or has cancelled."""

    code = "cancelled"
    status = "CANCELLED"


class StageFailed(ZoetropeError):
    """A compiled stage failed. Details: `stage`."""

    code = "stage_failed"


class NonFinite(StageFailed):
    """A stage computed NaN or infinity: refused, never encoded as a black video."""

    code = "non_finite"


class StageLost(StageFailed):
    """A stage process died or hung under a running request; the request may be sent again."""

    code = "stage_lost"
    status = "UNAVAILABLE"


class MediaFailed(ZoetropeError):
    """The video could not be encoded."""

    code = "media_failed"


def from_code(code: str, message: str, *, status: str, details: Mapping[str, Any]) -> ZoetropeError:
    """The error that another process reported, as the class of its code.

    Args:
        code: the wire code; one that is not known here goes by its status and is kept in the details.
        message: what is wrong.
        status: the gRPC status name.
        details: the error's details; names that an error has anyway are left out.
    """
    own = ("version", "type", "code", "status", "message", "self")
    kept = {name: value for name, value in details.items() if name not in own}
    kind = _by_code().get(code)
    if kind is not None:
        return kind(message, **kept)
    return BY_STATUS.get(status, ZoetropeError)(message, **{**kept, "code": code})


BY_STATUS: Mapping[str, type[ZoetropeError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "UNAVAILABLE": Refused,
    "RESOURCE_EXHAUSTED": Refused,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
}
"""The error for a gRPC status that came without a code."""


def _by_code() -> dict[str, type[ZoetropeError]]:
    kinds = [kind for kind in globals().values() if isinstance(kind, type)]
    return {kind.code: kind for kind in kinds if issubclass(kind, ZoetropeError)}
