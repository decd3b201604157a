"""Whether the orchestrator's event loop still runs; a process whose loop hangs is alive to everybody else."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from zoetrope_server.launcher.control import ControlClient
from zoetrope_server.launcher.errors import ControlError

_PERIOD_S = 0.5


class Pulse:
    """Asks the orchestrator about its loop twice a second, from a thread of its own; a context manager."""

    def __init__(self, control: ControlClient) -> None:
        """Takes the orchestrator of a server that is ready."""
        self._control = control
        self._seen = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)

    def silent_s(self) -> float:
        """For how long the loop is not known to have run, in seconds."""
        return time.monotonic() - self._seen

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            try:
                # A repository need not have an orchestrator.
                lag_s = self._control.status().loop_lag_s if self._control.exists() else 0.0
                self._seen = max(self._seen, time.monotonic() - lag_s)
            except ControlError:
                continue
