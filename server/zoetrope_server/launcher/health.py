"""`/livez` and `/readyz` of the supervisor; Triton's own readiness stays 200 after a stage process died."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from zoetrope_server.launcher.errors import LaunchError


class Phase(Enum):
    """Where the server is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    RESTARTING = "restarting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One answer: the phase, and why the server is not ready (empty when it is)."""

    phase: Phase
    reason: str = ""

    @property
    def alive(self) -> bool:
        """Whether the server may still become ready, or is ending in order."""
        return self.phase is not Phase.FAILED

    @property
    def ready(self) -> bool:
        """Whether a request would be served."""
        return self.phase is Phase.READY and not self.reason


class HealthServer:
    """Answers the probes from threads of its own; a context manager."""

    def __init__(self, host: str, port: int, current: Callable[[], Health]) -> None:
        """Listens at once.

        Args:
            host: address to listen on.
            port: port to listen on.
            current: called for each probe, from the threads of this server.

        Raises:
            LaunchError: the port is taken.
        """
        try:
            self._server = _Server(host, port, current)
        except OSError as error:
            raise LaunchError(f"cannot listen on {host}:{port} for health ({error})") from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="health")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, current: Callable[[], Health]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.current = current
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Binds without the name lookup of the base class, which a broken DNS makes slow."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5
    server_version = "zoetrope"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path not in ("/livez", "/readyz"):
            self._answer(HTTPStatus.NOT_FOUND, {"reason": "there are /livez and /readyz"})
            return
        health = self.server.current()
        good = health.alive if path == "/livez" else health.ready
        body = {"status": health.phase.value} | ({"reason": health.reason} if health.reason else {})
        self._answer(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds; they are not worth a line each."""

    def _answer(self, status: HTTPStatus, body: dict[str, str]) -> None:
        text = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
