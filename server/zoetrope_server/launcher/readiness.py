"""Asks Triton whether it is ready, without its HTTP endpoint."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass

import grpc

from zoetrope_server.launcher.control import ControlClient
from zoetrope_server.launcher.errors import ControlError
from zoetrope_server.launcher.ports import address, connectable

TIMEOUT_S = 1.0
_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"
"""HealthCheckResponse with the status SERVING."""
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


def accepts(host: str, port: int) -> bool:
    """Whether something listens on a port."""
    try:
        socket.create_connection((connectable(host), port), timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcHealth:
    """The standard health service of gRPC, in plain text."""

    host: str
    port: int

    def __call__(self) -> bool:
        """Whether Triton answers that it serves."""
        # A connection for each probe, as in an HTTP one: nothing waits in a back-off after a restart.
        if not accepts(self.host, self.port):
            return False
        with grpc.insecure_channel(address(self.host, self.port), options=_OPTIONS) as channel:
            try:
                return bool(channel.unary_unary(_CHECK)(b"", timeout=TIMEOUT_S) == _SERVING)
            except grpc.RpcError:
                return False


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsHealth:
    """Under TLS, whose clients a probe cannot be: Triton shakes hands, and the orchestrator answers.

    Mutual TLS asks for a certificate that the supervisor does not have, and the server's own names hosts that
    the supervisor does not know. Triton opens its ports once all models are ready.
    """

    host: str
    port: int
    control: ControlClient

    def __call__(self) -> bool:
        """Whether both are so; a repository without an orchestrator is taken at the handshake."""
        if not shakes_hands(self.host, self.port):
            return False
        try:
            return not self.control.exists() or self.control.status() is not None
        except ControlError:
            return False


def shakes_hands(host: str, port: int) -> bool:
    """Whether a server answers to the beginning of TLS.

    It goes no further: to be refused for want of a certificate would be an error in the server's log.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    hello = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello).do_handshake()
    try:
        with socket.create_connection((connectable(host), port), timeout=TIMEOUT_S) as connection:
            connection.sendall(hello.read())
            return connection.recv(1) != b""
    except OSError:
        return False
