"""Errors that only a client can meet, beside those of `zoetrope_core.errors`.

Tree::

    ZoetropeError
    +-- ServerUnavailable          server_unavailable   nothing was received: safe to try again
    +-- ConnectionLost             connection_lost      the stream broke off before its `done`
    +-- BadResponse                bad_response         what came is not of the contract

A refusal that the server itself sends (`overloaded`, `draining`, `deadline`) is the class of that code in
`zoetrope_core.errors`.
"""

from __future__ import annotations

from zoetrope_core.errors import ZoetropeError


class ServerUnavailable(ZoetropeError):
    """No server answers at the address, or it is not ready; the request was not accepted."""

    code = "server_unavailable"
    status = "UNAVAILABLE"


class ConnectionLost(ZoetropeError):
    """The stream ended without `done` or `error`: the server or the connection has gone."""

    code = "connection_lost"
    status = "UNAVAILABLE"


class BadResponse(ZoetropeError):
    """The server sent something that is not of this version's contract."""

    code = "bad_response"
