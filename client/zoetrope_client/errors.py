"""Everything that a call can raise, in one tree. The server's own errors are in `zoetrope_core.errors`.

Tree, with the wire code and the gRPC status of each::

    ZoetropeError                  internal             INTERNAL, and any status that is not named here
    +-- InvalidRequest             invalid_argument     INVALID_ARGUMENT   field, value, allowed, suggestion
    |   +-- InvalidImage           invalid_image        INVALID_ARGUMENT
    +-- Refused                    unavailable          UNAVAILABLE, RESOURCE_EXHAUSTED   retry_after_s
    |   +-- Overloaded             overloaded           UNAVAILABLE        retry_after_s
    |   +-- Draining               draining             UNAVAILABLE        retry_after_s
    |   +-- DeadlineExceeded       deadline             UNAVAILABLE, DEADLINE_EXCEEDED
    +-- Cancelled                  cancelled            CANCELLED
    +-- StageFailed                stage_failed         INTERNAL           stage
    |   +-- NonFinite              non_finite           INTERNAL
    |   +-- StageLost              stage_lost           UNAVAILABLE
    +-- MediaFailed                media_failed         INTERNAL
    +-- ServerUnavailable          server_unavailable   UNAVAILABLE, UNKNOWN without a code, at the start
    +-- ConnectionLost             connection_lost      the same, in the middle of a stream
    +-- BadResponse                bad_response         what came is not of the contract
    +-- Unauthenticated            unauthenticated      UNAUTHENTICATED    from a gateway
    +-- PermissionDenied           permission_denied    PERMISSION_DENIED  from a gateway
    +-- NotServed                  not_served           NOT_FOUND, UNIMPLEMENTED   it is another server

What the right column names in lower case are `details`. Only these are tried again by the client itself, and
only before the first response: a `ServerUnavailable` of status UNAVAILABLE, and with `patience_s` a `Refused`
that says `retry_after_s`, except `DeadlineExceeded`. Not of this tree: `OSError` for files that cannot be
read or written, and what a header provider raises.
"""

from __future__ import annotations

from collections.abc import Mapping

from zoetrope_core.errors import (
    BY_STATUS,
    Cancelled,
    DeadlineExceeded,
    Draining,
    InvalidImage,
    InvalidRequest,
    MediaFailed,
    NonFinite,
    Overloaded,
    Refused,
    StageFailed,
    StageLost,
    ZoetropeError,
)

__all__ = [
    "BadResponse",
    "Cancelled",
    "ConnectionLost",
    "DeadlineExceeded",
    "Draining",
    "InvalidImage",
    "InvalidRequest",
    "MediaFailed",
    "NonFinite",
    "NotServed",
    "Overloaded",
    "PermissionDenied",
    "Refused",
    "ServerUnavailable",
    "StageFailed",
    "StageLost",
    "Unauthenticated",
    "ZoetropeError",
]


class ServerUnavailable(ZoetropeError):
    """No server answers at the address, or it is not ready; nothing was received. Details: `grpc_status`."""

    code = "server_unavailable"
    status = "UNAVAILABLE"


class ConnectionLost(ZoetropeError):
    """The stream ended without `done` or `error`: the server or the connection has gone."""

    code = "connection_lost"
    status = "UNAVAILABLE"


class BadResponse(ZoetropeError):
    """The server sent something that is not of this version's contract."""

    code = "bad_response"


class Unauthenticated(ZoetropeError):
    """What stands before the server wants credentials, or other ones."""

    code = "unauthenticated"
    status = "UNAUTHENTICATED"


class PermissionDenied(ZoetropeError):
    """The credentials are known, and do not allow this."""

    code = "permission_denied"
    status = "PERMISSION_DENIED"


class NotServed(ZoetropeError):
    """The server at the address does not serve what this client asks for."""

    code = "not_served"
    status = "NOT_FOUND"


BY_PLAIN_STATUS: Mapping[str, type[ZoetropeError]] = {
    **BY_STATUS,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "NOT_FOUND": NotServed,
    "UNIMPLEMENTED": NotServed,
}
"""The error for a gRPC status that came without a code."""
