"""Watches tritonserver and its stub processes: Triton itself does not notice when a stub dies."""

from __future__ import annotations

import contextlib
import os
import select
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

_NEVER = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A process that must live. `descriptor` is its pidfd, negative when it was gone before it was opened."""

    pid: int
    name: str
    descriptor: int

    @property
    def is_triton(self) -> bool:
        """Whether it is tritonserver itself."""
        return self.name == "tritonserver"

    def __str__(self) -> str:
        kind = "" if self.is_triton else "stage process "
        return f"{kind}{self.name} (pid {self.pid})"


class ProcessWatch:
    """Holds a pidfd for tritonserver and for each child it has now; a context manager."""

    def __init__(self, triton: int) -> None:
        """Takes the process id of a tritonserver whose models are loaded."""
        self.processes = (_watched(triton, "tritonserver"), *map(_stub, _children(triton)))

    def first_dead(self, timeout_s: float = 0.0) -> Watched | None:
        """The first that is dead, after waiting for at most the timeout; tritonserver before its children."""
        gone = [process for process in self.processes if process.descriptor == _NEVER]
        if gone:
            return gone[0]
        # One poll object a call: the health server asks too, from its own threads.
        poll = select.poll()
        for process in self.processes:
            poll.register(process.descriptor, select.POLLIN)
        dead = {descriptor for descriptor, _ in poll.poll(timeout_s * 1000)}
        return next((process for process in self.processes if process.descriptor in dead), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            if process.descriptor != _NEVER:
                os.close(process.descriptor)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _stub(process: psutil.Process) -> Watched:
    return _watched(process.pid, _model_name(process))


def _model_name(process: psutil.Process) -> str:
    """The model a stub runs: the folder above the version folder of the `model.py` among its arguments."""
    with contextlib.suppress(psutil.Error):
        for argument in process.cmdline():
            parts = argument.split(os.sep)
            if parts[-1].endswith(".py") and len(parts) > 2:
                return parts[-3]
    return "unknown"


def _watched(pid: int, name: str) -> Watched:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        descriptor = _NEVER
    return Watched(pid=pid, name=name, descriptor=descriptor)
