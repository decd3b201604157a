"""The supervisor's side of the orchestrator's control socket: one JSON object a line, one answer a line."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoetrope_server.launcher.errors import ControlError

_LONGEST_ANSWER = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the orchestrator is doing.

    Attributes:
        active: requests that run.
        waiting: requests that wait.
        draining: whether it refuses new ones.
        loop_lag_s: for how long its event loop has not run, in seconds.
    """

    active: int
    waiting: int
    draining: bool
    loop_lag_s: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether no request would be hurt by an end of the server."""
        return self.active == 0 and self.waiting == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlClient:
    """Speaks to one orchestrator; a connection for each operation, so that nothing outlives a restart.

    Attributes:
        path: the Unix socket.
        timeout_s: bound on one whole operation's connect, send and answer, each.
    """

    path: Path
    timeout_s: float = 1.0

    def exists(self) -> bool:
        """Whether there is an orchestrator that listens (a repository need not have one)."""
        return self.path.is_socket()

    def status(self) -> Status:
        """What it is doing.

        Raises:
            ControlError: no usable answer.
        """
        answer = self.call("status")
        try:
            return Status(
                active=int(answer["active"]),
                waiting=int(answer["waiting"]),
                draining=bool(answer["draining"]),
                loop_lag_s=float(answer.get("loop_lag_s", 0.0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ControlError(f"the orchestrator's status is incomplete: {answer}") from error

    def drain(self) -> None:
        """Makes it refuse new requests. Raises ControlError."""
        self.call("drain")

    def fail(self, reason: str) -> None:
        """Makes it end all running and waiting requests with an error. Raises ControlError."""
        self.call("fail", reason=reason)

    def cancel(self, request: str) -> bool:
        """Cancels the request with this id; whether it was found. Raises ControlError."""
        return bool(self.call("cancel", id=request).get("found"))

    def call(self, op: str, **fields: Any) -> dict[str, Any]:
        """One operation and its answer.

        Raises:
            ControlError: the socket is gone or silent, or the answer is not `{"ok": true, ...}`.
        """
        line = json.dumps({"op": op, **fields}).encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self.timeout_s)
                connection.connect(str(self.path))
                connection.sendall(line)
                with connection.makefile("rb") as answers:
                    answer = json.loads(answers.readline(_LONGEST_ANSWER))
        except (OSError, ValueError) as error:
            raise ControlError(f"control operation {op} failed: {type(error).__name__}: {error}") from error
        if not isinstance(answer, dict) or answer.get("ok") is not True:
            raise ControlError(f"control operation {op} was refused: {answer}")
        return answer
