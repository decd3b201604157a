"""The GPU of this machine, as its driver's own tool describes it: no CUDA library is needed to ask."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

_QUERY = "name,compute_cap,driver_version,memory.total,memory.free"
_TIMEOUT_S = 20.0
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        name: the product's name.
        target: its compute capability, such as `sm90`.
        driver: the driver's version.
        memory: its memory in bytes.
        free: what of it is free, in bytes.
    """

    name: str
    target: str
    driver: str
    memory: int
    free: int


def detect_gpu() -> Gpu | None:
    """The first NVIDIA GPU of this machine; None when there is none, or no driver that answers."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_gpu(done.stdout)


def parse_gpu(table: str) -> Gpu | None:
    """The first GPU of what `nvidia-smi` prints; None for anything else."""
    fields = [field.strip() for field in table.strip().partition("\n")[0].split(",")]
    try:
        name, capability, driver, memory, free = fields
        major, minor = map(int, capability.split("."))
        return Gpu(
            name=name,
            target=f"sm{major}{minor}",
            driver=driver,
            memory=int(memory) * _MIB,
            free=int(free) * _MIB,
        )
    except ValueError:
        return None
