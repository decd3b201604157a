"""The control socket of the orchestrator: one JSON object a line, one answer a line.

Operations: `status`, `drain`, `fail` (with a `reason`), `cancel` (with an `id`). Used by the supervisor, and
by the unary model, whose inner request cannot be cancelled through Triton.
"""

from __future__ import annotations

import json
import logging
import socketserver
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_logger = logging.getLogger(__name__)
Operation = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From the request object to the answer's fields; called in a thread of the control server."""


class _Handler(socketserver.StreamRequestHandler):
    server: ControlServer

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(json.dumps(self.server.answer(line)).encode() + b"\n")


class ControlServer(socketserver.ThreadingUnixStreamServer):
    """Serves operations on a Unix socket in threads of its own, until `close`."""

    daemon_threads = True

    def __init__(self, path: Path, operations: Mapping[str, Operation]) -> None:
        """Binds the socket and starts to serve; a socket file left by a dead process is replaced."""
        path.unlink(missing_ok=True)
        super().__init__(str(path), _Handler)
        self._path = path
        self._operations = operations
        self._thread = threading.Thread(target=self.serve_forever, name="control", daemon=True)
        self._thread.start()

    def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to one line; a mistake in it is answered, not raised."""
        try:
            body = json.loads(line)
            return {"ok": True, **self._operations[body["op"]](body)}
        except (ValueError, KeyError, TypeError) as error:
            _logger.warning("bad control request %r: %s", line[:200], error)
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}

    def close(self) -> None:
        """Stops serving and removes the socket file."""
        self.shutdown()
        self.server_close()
        self._path.unlink(missing_ok=True)
