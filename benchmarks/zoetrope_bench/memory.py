"""The memory that a process and its children take, as the system counts it."""

from __future__ import annotations

import re
from pathlib import Path

import psutil


def peak_memory(pid: int) -> int:
    """The most memory that the living processes of a tree have taken so far, in bytes.

    Pages that are shared count once in all (the proportional set size, PSS), and each process is counted at
    its own peak, so that peaks at different times add up to more than there ever was. Nothing is sampled
    meanwhile: it costs the processes no time.
    """
    root = psutil.Process(pid)
    return sum(_peak(Path(f"/proc/{process.pid}")) for process in [root, *root.children(recursive=True)])


def _peak(process: Path) -> int:
    """The PSS of a process now, and by how much its resident memory has shrunk since its peak."""
    try:
        status, rollup = (process / "status").read_text(), (process / "smaps_rollup").read_text()
        return _bytes(rollup, "Pss") + _bytes(status, "VmHWM") - _bytes(status, "VmRSS")
    except (OSError, LookupError):  # it has ended
        return 0


def _bytes(text: str, name: str) -> int:
    """A figure of one of proc(5)'s files."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return int(found[1]) << 10
