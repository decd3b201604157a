"""What the processes of a running server hold: memory, open files, threads, shared memory."""

import contextlib
import os
import statistics
from collections import Counter
from pathlib import Path

import psutil

from zoetrope_server.launcher.control import ControlClient

SHM = Path("/dev/shm")
PREFIX = "shm-region-prefix-name="


def control_of(server):
    """The control socket of a server's orchestrator."""
    triton = psutil.Process(server.ports["triton_pid"])
    return ControlClient(path=Path(triton.environ()["ZOETROPE_CONTROL_SOCKET"]))


class Footprint:
    """Reads what one server holds; processes go by their role, since decode workers are replaced."""

    def __init__(self, server):
        self._supervisor = psutil.Process(server.process.pid)
        triton = psutil.Process(server.ports["triton_pid"])
        self.prefix = next(part.split(PREFIX)[1].split(",")[0] for part in triton.cmdline() if PREFIX in part)
        self.control = control_of(server)

    def read(self):
        """Amounts by (role, what): "rss" and "shm" in bytes, "files" and "threads" in numbers."""
        held = Counter()
        for process in [self._supervisor, *self._supervisor.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied), process.oneshot():
                name = role(process)
                amounts = process.memory_info().rss, process.num_fds(), process.num_threads()
                for what, amount in zip(("rss", "files", "threads"), amounts, strict=True):
                    held[name, what] += amount
        pages = [path for path in SHM.glob(self.prefix + "*")]
        with contextlib.suppress(FileNotFoundError):
            held["server", "shm"] = sum(os.stat(path).st_blocks * 512 for path in pages)
        held["server", "shm files"] = len(pages)
        return held


def role(process):
    """The model of a stub, the module of a python process, or the name of the program."""
    command = process.cmdline()
    if len(command) > 1 and command[1].endswith("model.py"):
        return Path(command[1]).parts[-3]
    if "-m" in command:
        return command[command.index("-m") + 1]
    return process.name()


def medians(samples):
    """The median of each amount over some samples; what a sample lacks counts as none."""
    keys = {key for sample in samples for key in sample}
    return {key: statistics.median(sample[key] for sample in samples) for key in sorted(keys)}
