"""One tritonserver process: started, awaited, stopped; its log kept."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

from zoetrope_server.launcher import private
from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.scratch import ScratchDirs
from zoetrope_server.launcher.triton_log import LineFilter, cut_lines
from zoetrope_server.launcher.undertaker import kill_group

_logger = logging.getLogger(__name__)
_POLL_S = 0.05
_LOG_LINES = 200
_LINE_LENGTH = 1024


class TritonProcess:
    """A tritonserver in a process group of its own; a terminal's Ctrl-C reaches the supervisor alone."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        ready: Callable[[], bool],
        log: BinaryIO | None = None,
    ) -> None:
        """Starts the process.

        Args:
            command: see `triton_command`.
            environment: see `triton_environment`.
            ready: whether it answers that all models are ready.
            log: where its output goes; standard error without one.

        Raises:
            LaunchError: the binary cannot be executed.
        """
        self.is_ready = ready
        self._scratch = ScratchDirs()
        self._gone = False
        self._lines: deque[str] = deque(maxlen=_LOG_LINES)
        if not os.access(command[0], os.X_OK):
            raise LaunchError(f"cannot execute {command[0]}")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", private.__file__, *command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(f"cannot execute {command[0]}: {error}") from error
        self._reader = threading.Thread(
            target=self._forward, args=(log or sys.stderr.buffer,), name="triton-log", daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of the process group."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def log_tail(self, lines: int = 20) -> list[str]:
        """The last lines of its output."""
        return list(self._lines)[-lines:]

    def wait_ready(self, timeout_s: float, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Waits until it is ready; False when interrupted first.

        Raises:
            LaunchError: the process died (with its reason and its last lines), or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if interrupted():
                return False
            if self.exit_code() is not None:
                raise self._death()
            if time.monotonic() > deadline:
                raise LaunchError(f"Triton was not ready after {timeout_s:g} s", log=self.log_tail())
            time.sleep(_POLL_S)
        self._scratch.note()
        return True

    def stop(self, timeout_s: float, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Asks Triton to exit; whether it went by itself within the time, without an interruption.

        Whatever the answer, nothing of it is left afterwards.
        """
        deadline = time.monotonic() + timeout_s
        if self.exit_code() is None:
            self._process.send_signal(signal.SIGTERM)
        while self.exit_code() is None and time.monotonic() < deadline and not interrupted():
            time.sleep(_POLL_S)
        code = self.exit_code()
        if code is None:
            _logger.warning("Triton did not exit in time; killing it")
        self.kill()
        return code == 0

    def kill(self) -> None:
        """Kills Triton, its stubs and all they started; returns when they are gone. May be called again."""
        if self._gone:
            return  # by now the group's id may belong to somebody else
        self._process.kill()
        self._process.wait()
        self._gone = kill_group(self.pid, patience_s=5.0)
        if not self._gone:
            _logger.warning("processes of group %d are still there after SIGKILL", self.pid)
        self._reader.join(1.0)
        self._scratch.remove()

    def _forward(self, log: BinaryIO) -> None:
        """Passes the output on; a full pipe would block Triton, so a broken log does not end the reading."""
        assert self._process.stdout is not None
        lines = LineFilter()
        with self._process.stdout as output:
            for line in cut_lines(output):
                self._keep(log, lines.take(line))
        self._keep(log, lines.rest())

    def _keep(self, log: BinaryIO, lines: Sequence[bytes]) -> None:
        for line in lines:
            self._lines.append(line[:_LINE_LENGTH].decode(errors="replace").rstrip())
            with contextlib.suppress(OSError, ValueError):
                log.write(line)
                log.flush()

    def _death(self) -> LaunchError:
        self._reader.join(1.0)
        code = self.exit_code()
        reason = failure_reason(list(self._lines))
        return LaunchError(
            f"tritonserver ended with code {code} before it was ready: {reason}",
            log=self.log_tail(),
            exit_code=code,
        )


def failure_reason(lines: Sequence[str]) -> str:
    """The line of Triton's log that says why it gave up: the first error of a model, else the last error."""
    for pattern in (r"failed to load '.*", r"[Ff]ailed to start .*", r"error: .*", r"^E\d{4} \S+ \d+ (.*)"):
        for line in lines:
            match = re.search(pattern, line)
            if match and (text := match[match.lastindex or 0].strip().strip('"')):
                return " ".join(text.replace("\\n", " ").split())  # Triton escapes line ends in its log
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def adopt_orphans() -> None:
    """Makes this process the parent of stubs whose tritonserver has died, so that it can reap them.

    In a container the process with id 1 often reaps nothing, and each crash would leave zombies.
    """
    set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER in linux/prctl.h
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0) != 0:
        _logger.warning("cannot adopt orphaned processes: %s", os.strerror(ctypes.get_errno()))


def raise_open_files() -> tuple[int, int]:
    """Raises the limit of open files to the hard one, for this process and what it starts.

    Returns:
        What it was, and what it is. Each connection takes one, and Triton's HTTP never ends a silent one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard
