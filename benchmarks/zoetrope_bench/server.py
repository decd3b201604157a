"""A server for the time of a measurement: `zoetrope serve` on free loopback ports."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOP_SECONDS = 60.0
HTTP = ("--triton-http", "--http-port", "0")
"""Flags for a server that answers over HTTP too."""


class ServerFailed(RuntimeError):
    """The server did not become ready; the message holds the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server.

    Attributes:
        process: the `zoetrope serve` process.
        ports: what it printed: `grpc`, `http` (or None), `metrics`, `health`: HOST:PORT; `pid`, `triton_pid`.
        log: the file that holds its standard error.
    """

    process: subprocess.Popen[str]
    ports: Mapping[str, Any]
    log: Path

    @property
    def url(self) -> str:
        """HOST:PORT of the gRPC endpoint."""
        return str(self.ports["grpc"])

    def stop(self) -> int:
        """Asks the server to end and waits for it; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def serving(
    repository: Path, log: Path, *flags: str, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Serves a model repository on free loopback ports for the time of the context.

    Args:
        repository: the model repository.
        log: where the server's standard error goes.
        flags: further flags of `zoetrope serve`.
        environment: the server's environment; this process's by default.

    Raises:
        ServerFailed: the server ended before it was ready.
    """
    ports = ("--grpc-port", "0", "--metrics-port", "0", "--health-port", "0")
    command = [str(Path(sys.executable).parent / "zoetrope"), "serve", str(repository), *ports, *flags]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        ) as process,
    ):
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise ServerFailed(f"no server for {repository}:\n" + log.read_text()[-2000:])
            yield Server(process=process, ports=json.loads(line), log=log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
