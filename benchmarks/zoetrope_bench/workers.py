"""The other end of `stage_worker`: a contender in a process of its own, which runs when it is asked to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from zoetrope_bench.pipeline_worker import PipelineTask
from zoetrope_bench.stage_tasks import Task

COMMAND = (sys.executable, "-P", "-m", "zoetrope_bench.stage_worker")
_PATIENCE_S = 10.0


class WorkerFailed(Exception):
    """The contender could not be loaded or run; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What getting ready took: seconds, and the most memory in bytes."""

    seconds: float
    peak: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn: seconds of each call, and the most memory in bytes since the contender was ready."""

    seconds: tuple[float, ...]
    peak: int


class Worker:
    """One process with one contender; idle, with its memory, between its turns."""

    def __init__(self, task: Task | PipelineTask, command: Sequence[str] = COMMAND) -> None:
        """Starts the process and hands it its task."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._send(json.dumps(asdict(task)))

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def ready(self) -> Setup:
        """Waits until the contender is loaded, compiled and warm; raises WorkerFailed."""
        reply = self.reply()
        return Setup(seconds=reply["setup_seconds"], peak=reply["setup_peak"])

    def turn(self) -> Turn:
        """Lets the contender run once, or for a moment if a call is short; raises WorkerFailed."""
        reply = self.ask("turn")
        return Turn(seconds=tuple(reply["seconds"]), peak=reply["peak"])

    def ask(self, line: str) -> dict[str, Any]:
        """Sends one line and waits for its answer; raises WorkerFailed."""
        self._send(line)
        return self.reply()

    def close(self) -> None:
        """Ends the process, and what it started."""
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # it ended before it read all
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._kill()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        """The worker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `close`; after an interruption it does not wait for the call that runs."""
        if kind is not None and not issubclass(kind, Exception):
            self._kill()
        self.close()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _send(self, line: str) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # `reply` finds out why
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def reply(self) -> dict[str, Any]:
        """The next line of the process; raises WorkerFailed."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(self._epitaph())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerFailed(reply["error"])
        return reply

    def _epitaph(self) -> str:
        """How the process ended, and its last words."""
        status = self._process.wait()
        self._log.seek(0)
        words = self._log.read().decode(errors="replace").strip().splitlines()
        cause = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return (
            f"its process was {cause}" if status < 0 else f"its process {cause}: {words[-1] if words else ''}"
        )
